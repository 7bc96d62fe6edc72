"""The scores are the field's own: known captions get known figures."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.analysis import caption_metrics
from captioner_core.analysis.caption_metrics import score
from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.errors import CaptionerError
from captioner_core.training.dataset import read_captions_by_split
from captioner_core.training.train import train
from tests.training_runs import options

REFERENCES = {
    "one.jpg": ["a brown dog runs on the green grass", "the dog is running"],
    "two.jpg": ["two children play in the water", "kids swim in a lake"],
}


def test_the_references_themselves_score_one():
    scores = score({image: listed[0] for image, listed in REFERENCES.items()}, REFERENCES).corpus
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert scores[name] == pytest.approx(1.0, abs=1e-6)
    assert scores["CIDEr"] > 1


def test_bleu_counts_words_by_hand(monkeypatch):
    """Three of four words are in the reference, and the brevity penalty is exp(1 - 5/4)."""
    monkeypatch.setattr(caption_metrics, "has_java", lambda: False)
    scores = score({"x": "a dog runs here"}, {"x": ["a dog runs very fast"]}).corpus
    assert scores["BLEU-1"] == pytest.approx(0.75 * 2.718281828 ** (1 - 5 / 4), rel=1e-4)


def test_wrong_captions_score_low_and_case_and_punctuation_do_not_count():
    swapped = {
        "one.jpg": "two children play in the water",
        "two.jpg": "a brown dog runs on the green grass",
    }
    assert score(swapped, REFERENCES).corpus["BLEU-4"] < 0.1
    shouted = {image: listed[0].upper() + " ." for image, listed in REFERENCES.items()}
    assert score(shouted, REFERENCES).corpus["BLEU-4"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [({}, REFERENCES), ({"three.jpg": "a dog"}, REFERENCES), ({"x": "a"}, {"x": []})],
)
def test_nothing_to_score_against_is_refused(hypotheses, references):
    with pytest.raises(CaptionerError, match="no reference"):
        score(hypotheses, references)


def test_reliability_goes_from_the_least_likely_to_the_likeliest():
    captions = {f"{n:02d}": GeneratedCaption("a b", -3.0 * (n + 1), 2) for n in range(10)}
    fifths = caption_metrics.measure_reliability(
        captions, {image_id: float(10 - int(image_id)) for image_id in captions}
    )
    assert [fifth["images"] for fifth in fifths] == [2] * 5
    assert fifths[-1]["word_probability"] == pytest.approx(
        (math.exp(-1) + math.exp(-2)) / 2, abs=1e-4
    )
    assert [fifth["cider"] for fifth in fifths] == [1.5, 3.5, 5.5, 7.5, 9.5]


def test_several_datasets_are_evaluated_one_by_one(source, tmp_path, capsys):
    train(options(source, tmp_path / "model", epochs=2))
    dataset, features = str(source / "dataset"), str(source / "features")
    output = tmp_path / "figures.json"
    command = ["evaluate", f"--model={tmp_path / 'model'}", f"--output={output}"]
    twice = [f"--dataset={dataset}", f"--features={features}"] * 2
    assert main([*command, *twice]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"dataset {dataset}\n") == 2
    assert "95 % interval" in printed
    evaluations = json.loads(output.read_text())["evaluations"]
    assert [one["images"] for one in evaluations] == [4, 4]
    low, high = evaluations[0]["intervals"]["CIDEr"]
    assert low <= evaluations[0]["scores"]["CIDEr"] <= high
    assert main([*command, *twice]) == 0, "the file may be replaced"
    assert main([*command, *twice[:3]]) == 2
    assert "--features is given 1 times" in capsys.readouterr().err


def test_figures_go_into_the_models_metrics(source, tmp_path, capsys):
    model_id = train(options(source, tmp_path / "model", epochs=2))
    model = str(tmp_path / "model")
    features = str(source / "features")
    command = [
        "evaluate",
        "--model",
        model,
        "--dataset",
        str(source / "dataset"),
        "--features",
        features,
    ]
    for beam_width in ("1", "2", "2"):
        assert (
            main([*command, "--beam-width", beam_width, "--output", str(tmp_path / "figures.json")])
            == 0
        )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["model_id"] == model_id == figures["model_id"]
    assert [one["beam_width"] for one in metrics["evaluations"]] == [1, 2], (
        "the same again replaces"
    )
    assert figures["images"] == 4
    captions = read_captions_by_split(str(source / "dataset"))["dev"]
    assert figures["references"] == caption_metrics.references_fingerprint(
        captions, figures["tokenizer"], "dev"
    )
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert card.count("| dev | 4 |") == 2
    assert f"{figures['scores']['CIDEr']:.3f}" in card
    assert {"BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"} <= figures["scores"].keys()


def test_a_model_folder_without_metrics_is_evaluated_too(source, tmp_path):
    model_id = train(options(source, tmp_path / "model", epochs=1))
    (tmp_path / "model" / "metrics.json").unlink()
    command = ["evaluate", "--model", str(tmp_path / "model"), "--dataset", str(source / "dataset")]
    assert main([*command, "--features", str(source / "features")]) == 0
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["model_id"] == model_id
    assert model_id in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_features_that_do_not_fit_the_model_are_refused(source, tmp_path, capsys):
    train(options(source, tmp_path / "model", epochs=1))
    table = pq.read_table(source / "features")
    pq.write_table(table.slice(0, 6), tmp_path / "few.parquet")
    column = table.schema.get_field_index("backbone")
    other = table.set_column(column, "backbone", pa.array(["other"] * len(table)))
    pq.write_table(other, tmp_path / "other.parquet")
    capsys.readouterr()
    for name, message in (("few", "lack 3 of the split's 4 images"), ("other", "are of 'other'")):
        features = str(tmp_path / f"{name}.parquet")
        command = [
            "evaluate",
            "--model",
            str(tmp_path / "model"),
            "--dataset",
            str(source / "dataset"),
        ]
        assert main([*command, "--features", features]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
