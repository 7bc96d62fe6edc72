"""The current model of a folder of models: promotion, undo, the gate, and who uses it."""

from __future__ import annotations

import json
import shutil
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs as pafs
from safetensors.numpy import save

from beam_jobs.workflows import run as run_workflow
from captioner_cli.main import main
from captioner_core.analysis.caption_metrics import references_fingerprint
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.saved_model import check_model, read_model_id
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.io import storage
from captioner_core.models.gate import gate
from captioner_core.models.registry import (
    current_model,
    list_models,
    model_name,
    promote,
    read_pointer,
    resolve_model,
    undo,
)
from captioner_core.options import PRETRAINED
from captioner_core.tables.schemas import DATASET_CAPTIONS_SCHEMA, DatasetCaptionRow
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.training.train import train
from tests.processes import exit_code
from tests.training_runs import options, write

REFERENCES = "0" * 64
COLUMNS = ("image_id", "caption_index", "caption", "split")


def write_weights(folder, weight):
    """Writes one array as the weights of a model folder."""
    (folder / "weights.safetensors").write_bytes(save({"weight": weight}))


def make_model(folder, seed=0, **evaluation):
    """Writes a model folder without a network. Its files fit each other, which is enough here."""
    vocabulary = Vocabulary.from_captions(["a dog runs"])
    config = CaptionerConfig(
        backbone="fake-299", vocabulary_size=len(vocabulary), cell_dim=1, units=8, embedding_dim=1
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    (folder / "vocabulary.json").write_text(vocabulary.to_json())
    write_weights(folder, np.full(config.parameter_count, seed, np.float32))
    (folder / "metrics.json").write_text(
        json.dumps({"model_id": read_model_id(str(folder)), "evaluations": []})
    )
    if evaluation:
        evaluate(folder, **evaluation)
    return folder


def evaluate(folder, cider=0.5, **changes):
    """Records a score as captioner evaluate does, after the earlier ones."""
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = {
        "model_id": metrics["model_id"],
        "split": "dev",
        "beam_width": 3,
        "references": REFERENCES,
    }
    metrics["evaluations"].append({**figures, "scores": {"CIDEr": cider}, **changes})
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def models(tmp_path):
    """Returns a folder of three models with a CIDEr of 0.5, 0.6 and 0.7."""
    for seed, name in enumerate("abc"):
        make_model(tmp_path / "models" / name, seed, cider=0.5 + seed / 10)
    return tmp_path / "models"


def pointer_file(models):
    """Returns the content of current.json."""
    return json.loads((models / "current.json").read_text())


def test_promoting_writes_the_pointer(models):
    assert current_model(str(models)) is None
    assert promote(str(models), "a")
    assert promote(str(models), "b")
    pointer = pointer_file(models)
    assert (pointer["schema_version"], pointer["current"]) == (1, "b")
    utc = [one.pop("utc") for one in pointer["history"]]
    assert utc == sorted(utc)
    a, b = (check_model(str(models / name)) for name in "ab")
    assert pointer["history"] == [
        {"action": "promote", "model": "a", "model_id": a, "previous": None, "cider": 0.5},
        {"action": "promote", "model": "b", "model_id": b, "previous": "a", "cider": 0.6},
    ]
    assert current_model(str(models)) == "b"


def test_promoting_again_changes_nothing(models):
    """A retried task must not double the history; an undo would lead to the same model."""
    promote(str(models), "a")
    before = (models / "current.json").read_bytes()
    assert not promote(str(models), "a")
    assert (models / "current.json").read_bytes() == before


def test_other_weights_under_the_same_name_are_another_model(models):
    promote(str(models), "a")
    make_model(models / "a", seed=9)
    assert promote(str(models), "a")
    assert len({one.model_id for one in read_pointer(str(models)).history}) == 2


def test_undo_walks_back_and_each_undo_is_kept(models):
    for name in "aba":
        promote(str(models), name)
    assert [undo(str(models)), undo(str(models))] == ["b", "a"]
    with pytest.raises(CaptionerError, match=r"nothing to undo.*'a' is the first model"):
        undo(str(models))
    promote(str(models), "c")
    assert undo(str(models)) == "a", "not to b, whose promotion was undone"
    history = [(one.action, one.model, one.previous) for one in read_pointer(str(models)).history]
    assert history[3:] == [
        ("undo", "b", "a"),
        ("undo", "a", "b"),
        ("promote", "c", "a"),
        ("undo", "a", "c"),
    ]


@settings(max_examples=30)
@given(st.lists(st.sampled_from("abcu"), max_size=12))
def test_any_walk_is_that_of_a_stack(tmp_path_factory, steps):
    models = tmp_path_factory.mktemp("walk")
    for seed, name in enumerate("abc"):
        make_model(models / name, seed)
    stack: list[str] = []
    for step in steps:
        if step != "u":
            promote(str(models), step)
            stack += [step] if stack[-1:] != [step] else []
        elif len(stack) > 1:
            stack.pop()
            assert undo(str(models)) == stack[-1]
        else:
            with pytest.raises(CaptionerError, match="nothing to undo"):
                undo(str(models))
        assert current_model(str(models)) == (stack[-1] if stack else None)


def test_undo_to_a_changed_or_deleted_model_is_refused(models):
    promote(str(models), "a")
    promote(str(models), "b")
    make_model(models / "a", seed=9)
    with pytest.raises(CaptionerError, match="was 'lstm-"):
        undo(str(models))
    shutil.rmtree(models / "a")
    with pytest.raises(CaptionerError, match="has no config"):
        undo(str(models))
    assert current_model(str(models)) == "b"


def test_simultaneous_promotions_lose_no_entry(models, monkeypatch):
    """Each reads the pointer, then writes it; without a lock, one would lose another's entry."""
    real = storage.write_json

    def slowly(uri, value):
        time.sleep(0.05)
        real(uri, value)

    monkeypatch.setattr(storage, "write_json", slowly)
    threads = [threading.Thread(target=promote, args=(str(models), name)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.model for one in read_pointer(str(models)).history) == ["a", "b", "c"]


def test_an_interrupted_write_leaves_the_old_pointer(models, monkeypatch):
    promote(str(models), "a")

    def cut_off(uri, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_text", cut_off)
    with pytest.raises(CaptionerError, match="nothing was changed"):
        promote(str(models), "b")
    assert current_model(str(models)) == "a"


def test_a_remote_pointer_is_written_in_one_operation(models, monkeypatch):
    """An object store cannot rename: a .tmp would be copied, and stay if that is interrupted."""
    root = pafs.SubTreeFileSystem(str(models.parent), pafs.LocalFileSystem())
    monkeypatch.setattr(storage, "resolve", lambda uri: (root, uri.removeprefix("store://")))
    monkeypatch.setattr(storage, "write_text", None)
    assert promote("store://models", "a")
    assert promote("store://models", "b")
    assert resolve_model("store://models") == "store://models/b"
    assert undo("store://models") == "a"
    assert sorted(path.name for path in models.iterdir()) == ["a", "b", "c", "current.json"]
    with pytest.raises(CaptionerError, match="is not a folder"):
        current_model("store://nowhere")


BREAKS = {
    "no weights": lambda f: (f / "weights.safetensors").unlink(),
    "weights of an earlier version": lambda f: (f / "weights.safetensors").rename(
        f / "weights.npz"
    ),
    "no metrics": lambda f: (f / "metrics.json").unlink(),
    "not JSON": lambda f: (f / "config.json").write_text("{"),
    "another format": lambda f: (f / "config.json").write_text('{"format_version": 99}'),
    "too few words": lambda f: (f / "vocabulary.json").write_text(
        Vocabulary.from_captions(["b"]).to_json()
    ),
    "cut weights": lambda f: (f / "weights.safetensors").write_bytes(
        (f / "weights.safetensors").read_bytes()[:100]
    ),
    "other weights": lambda f: write_weights(f, np.zeros(4, np.float32)),
    "weights of another type": lambda f: write_weights(f, np.zeros(4, np.int32)),
    "metrics of nothing": lambda f: (f / "metrics.json").write_text("[]"),
    "no UTF-8": lambda f: (f / "config.json").write_bytes(b"\xff"),
    "a folder for a file": lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
    "not there": lambda f: shutil.rmtree(f),
}


@pytest.mark.parametrize("name", BREAKS)
def test_only_a_complete_model_can_be_promoted(models, name):
    BREAKS[name](models / "a")
    with pytest.raises(CaptionerError, match=r"'.*/a'.*; ") as caught:
        promote(str(models), "a")
    assert "\n" not in str(caught.value)
    assert not (models / "current.json").exists()


@pytest.mark.parametrize(
    "name", ["../other", "..", ".", "", "/etc", "a/../a", "a/", ".a", "sub/a", "out", "a\n"]
)
def test_only_a_folder_directly_below_can_be_promoted(models, name):
    make_model(models.parent / "other")
    make_model(models / "sub" / "a")
    (models / "out").symlink_to(models.parent / "other")
    with pytest.raises(CaptionerError, match=r"directly below|link that leaves"):
        promote(str(models), name)


def test_a_model_may_be_named_as_a_folder(models, monkeypatch):
    make_model(models.parent / "other")
    monkeypatch.chdir(models)
    for given_as in ("a", "a/", "./a", f"{models}/a", f"{models}/a/", f"{models}/../models/a"):
        assert model_name(str(models), given_as) == "a"
    for elsewhere in (f"{models}/../other", f"{models}/sub/a", "../other", "/a"):
        with pytest.raises(CaptionerError, match="does not lie directly below"):
            model_name(str(models), elsewhere)


def _edit(**changes):
    def edit(pointer):
        pointer.update(changes)
        return json.dumps(pointer)

    return edit


def _edit_last(**changes):
    def edit(pointer):
        pointer["history"][-1].update(changes)
        pointer["current"] = pointer["history"][-1]["model"]
        return json.dumps(pointer)

    return edit


DAMAGE = {
    "empty": lambda pointer: "",
    "cut off": lambda pointer: json.dumps(pointer)[:50],
    "deep": lambda pointer: "[" * 100_000,
    "a list": lambda pointer: "[]",
    "no UTF-8": lambda pointer: b"\xff",
    "another version": _edit(schema_version=2),
    "another field": _edit(extra=1),
    "another current": _edit(current="a"),
    "no current": _edit(current=None),
    "a history that is none": _edit(history={}),
    "a change that is none": _edit(history=["b"]),
    "a change without its fields": _edit(history=[{"model": "b"}]),
    "a way out": _edit_last(model="../other"),
    "a name that is none": _edit_last(model=["b"]),
    "another action": _edit_last(action="demote"),
    "a gap": _edit_last(previous="c"),
    "an undo of nothing": _edit_last(action="undo"),
    "a figure that is none": _edit_last(cider="high"),
    "a figure without end": _edit_last(cider=float("nan")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_pointer_is_refused_in_one_line(models, name, capsys):
    """A pointer that was written in part or edited wrongly must not select a wrong model."""
    promote(str(models), "a")
    promote(str(models), "b")
    text = DAMAGE[name](pointer_file(models))
    (models / "current.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for call in (
        lambda: resolve_model(str(models)),
        lambda: promote(str(models), "c"),
        lambda: undo(str(models)),
    ):
        with pytest.raises(CaptionerError, match=r"current\.json' is damaged \(.*\); restore it"):
            call()
    assert main(["models", str(models)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_of_models_stands_for_its_current_one(models, monkeypatch):
    promote(str(models), "b")
    assert resolve_model(str(models)) == str(models / "b")
    assert resolve_model(f"{models}/") == str(models / "b")
    monkeypatch.chdir(models.parent)
    assert resolve_model("models") == "models/b"
    for as_it_is in (PRETRAINED, str(models / "a"), "nowhere", "models/a/"):
        assert resolve_model(as_it_is) == as_it_is
    shutil.copy(models / "current.json", models / "a")
    assert resolve_model("models/a") == "models/a", (
        "a model folder is a model, whatever else lies in it"
    )


def test_a_current_model_outside_the_folder_is_refused(models):
    promote(str(models), "a")
    shutil.rmtree(models / "a")
    (models / "a").symlink_to(make_model(models.parent / "other"))
    with pytest.raises(CaptionerError, match="leaves the folder"):
        resolve_model(str(models))


def test_a_missing_current_model_is_reported(models):
    (models / "current.json").write_text('{"schema_version": 1, "current": null, "history": []}')
    with pytest.raises(CaptionerError, match="has no current model"):
        resolve_model(str(models))
    with pytest.raises(CaptionerError, match="no client for nosuch"):
        resolve_model("nosuch://store/models")


@pytest.mark.parametrize(
    "argv",
    [
        ["caption", "--images", "in", "--output", "out"],
        ["run", "--images", "in", "--output", "out"],
        ["run", "--images", "in", "--output", "out", "--plan"],
        ["similar", "in/a.jpg", "--index", "dataset/captions.parquet"],
        ["export", "--output", "exported"],
        ["evaluate", "--dataset", "dataset"],
    ],
    ids=" ".join,
)
def test_every_command_with_a_model_accepts_a_folder_of_models(
    models, source, monkeypatch, capsys, argv
):
    """The model of this test has no weights that fit, so the error names the folder in use."""
    promote(str(models), "b")
    monkeypatch.chdir(models.parent)
    shutil.copytree(source / "dataset", "dataset")
    (models.parent / "in").mkdir()
    assert main([*argv, "--model", "models"]) == 2
    assert (
        "model folder 'models/b': weights.safetensors and config.json disagree"
        in capsys.readouterr().err
    )


def test_the_index_of_a_run_is_checked_against_the_current_model(models, monkeypatch):
    """A promotion between check and captions would get past the check."""
    promote(str(models), "b")
    checked = []

    def check_inputs(options):
        checked.append(options.model)
        promote(str(models), "c")
        raise CaptionerError("seen; stop")

    monkeypatch.setattr(run_workflow, "check_inputs", check_inputs)
    for plan in ([], ["--plan"]):
        assert main(["run", "--images", "in", "--model", str(models), *plan]) == 2
    assert checked == [str(models / "b"), str(models / "c")]


@pytest.mark.parametrize(
    ("margin", "passes"),
    [(0.0, True), (0.1, True), (0.11, False), (-1.0, True), (1.0, False), (0.1 + 1e-6, False)],
)
def test_the_gate_requires_the_margin(models, margin, passes):
    """0.6 passes at 0.1 above 0.5, although 0.5 + 0.1 may exceed 0.6 in floating point."""
    promote(str(models), "a")
    if passes:
        assert gate(str(models), "b", "dev", margin).cider == 0.6
    else:
        with pytest.raises(
            CheckFailed, match=r"0\.6000 of 'b', 0\.5000 of the current 'a', margin .*'a' stays"
        ):
            gate(str(models), "b", "dev", margin)


@pytest.mark.parametrize("one", range(0, 100, 7))
def test_rounding_does_not_close_the_gate(models, one):
    for name, cider in (("a", one / 100), ("b", (one + 5) / 100)):
        evaluate(models / name, cider)
    promote(str(models), "a")
    gate(str(models), "b", "dev", 0.05)


def test_a_worse_model_passes_within_a_negative_margin_only(models):
    promote(str(models), "b")
    with pytest.raises(CheckFailed):
        gate(str(models), "a")
    with pytest.raises(CheckFailed):
        gate(str(models), "a", "dev", -0.09)
    assert gate(str(models), "a", "dev", -0.1).is_passed


def test_the_first_model_and_the_current_one_pass(models):
    """A gate that is retried after its promotion must not fail by its own margin."""
    make_model(models / "new", 5)
    assert "no other model is current" in gate(str(models), "new").describe()
    promote(str(models), "a")
    assert gate(str(models), "a", "dev", 0.5).is_passed
    assert gate(str(models), f"{models}/a", "dev", 0.5).is_passed


def test_the_gate_accepts_a_model_of_another_folder(models):
    promote(str(models), "a")
    new = make_model(models.parent / "new", 7, cider=0.55)
    assert gate(str(models), str(new)).cider == 0.55


@pytest.mark.parametrize(
    "figures",
    [
        {"references": "1" * 64},
        {"references": None},
        {"split": "test"},
        {"beam_width": 1},
        {"scores": {}},
        {"scores": {"CIDEr": float("nan")}},
        {"scores": {"CIDEr": "0.9"}},
        {"model_id": "of weights that were here before"},
    ],
    ids=str,
)
def test_scores_that_cannot_be_compared_are_refused(models, figures):
    """A higher score on easier images, or of other weights, is no better model."""
    promote(str(models), "a")
    new = make_model(models / "new", 5, cider=0.9, **figures)
    with pytest.raises(
        CaptionerError, match=r"; evaluate '.*' and 'a' on the same dataset"
    ) as caught:
        gate(str(models), "new")
    assert not isinstance(caught.value, CheckFailed)
    evaluate(new, 0.8)
    assert gate(str(models), "new").cider == 0.8, "the one that compares is found beside it"


def test_the_scores_of_the_current_model_are_required_too(models):
    make_model(models / "bare")
    promote(str(models), "bare")
    with pytest.raises(CaptionerError, match="model 'bare' has no dev CIDEr"):
        gate(str(models), "a")


def test_the_gate_uses_the_score_at_the_models_own_beam_width(models):
    """A score at another beam width, recorded last out of curiosity, must not decide."""
    promote(str(models), "a")
    evaluate(models / "a", 0.1, beam_width=1)
    evaluate(models / "b", 0.2, beam_width=1)
    comparison = gate(str(models), "b")
    assert (comparison.cider, comparison.current_cider) == (0.6, 0.5)
    evaluate(models / "b", 0.65)
    assert gate(str(models), "b").cider == 0.65, "of two of the same kind the later"
    assert {one.name: one.cider for one in list_models(str(models))}["a"] == 0.5


def test_the_commands_print_what_they_did(models, capsys):
    at = ["--models", str(models)]
    assert main(["gate", *at, "--model", "a"]) == 0
    assert main(["promote", *at, "--model", "a"]) == 0
    assert main(["promote", *at, "--model", str(models / "a")]) == 0
    assert main(["promote", *at, "--model", "b"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "'a' is the current model",
        "'a' is the current model already; nothing changed",
        "'b' is the current model",
    ]
    assert main(["gate", *at, "--model", "a", "--margin", "-0.05"]) == 1
    assert main(["gate", *at, "--model", "a", "--margin", "-0.2"]) == 0
    output = capsys.readouterr()
    assert output.err == (
        "captioner: error: gate not passed: dev CIDEr 0.5000 of 'a', 0.6000 of the current 'b', "
        "margin -0.05: 'b' stays current\n"
    )
    assert output.out.startswith("'a' passes: dev CIDEr 0.5000 of 'a'")
    assert main(["promote", *at, "--undo"]) == 0
    assert capsys.readouterr().out == "'a' is the current model again\n"
    assert main(["promote", *at, "--undo"]) == 2
    assert "nothing to undo" in capsys.readouterr().err


def test_the_table_shows_every_model_and_the_history(models, capsys):
    make_model(models / "new one", 5)
    (models / "broken").mkdir()
    (models / "broken" / "config.json").write_text("{}")
    (models / ".written").mkdir()
    shutil.copytree(models / "a", models / ".written", dirs_exist_ok=True)
    promote(str(models), "a")
    promote(str(models), "b")
    undo(str(models))
    assert main(["models", str(models)]) == 0
    lines = capsys.readouterr().out.splitlines()
    model_id = check_model(str(models / "a"))
    assert lines[1].split() == ["*", "a", model_id, "0.500"]
    assert lines[2].split()[0] == "b"
    assert lines[3].split() == ["broken", "unknown", "-"] or lines[4].split() == [
        "broken",
        "unknown",
        "-",
    ]
    assert not any("written" in line for line in lines)
    history = lines[lines.index("history") + 1 :]
    assert len(history) == 3
    assert f"promoted 'a' {model_id}, dev CIDEr 0.500" in history[0]
    assert "after 'b'" in history[2]
    shutil.rmtree(models / "a")
    assert main(["models", str(models)]) == 0
    assert "* a" in capsys.readouterr().out, "a current model that no longer exists is still listed"


BAD_USAGE = [
    ["gate", "--models", "models", "--model", "nothing"],
    ["gate", "--models", "models", "--model", "../models/nothing"],
    ["gate", "--models", "nowhere", "--model", "a"],
    ["gate", "--models", "models", "--model", "a", "--margin", "1.5"],
    ["gate", "--models", "models", "--model", "a", "--margin", "nan"],
    ["gate", "--models", "models", "--model", "a", "--split", "train"],
    ["promote", "--models", "models"],
    ["promote", "--models", "models", "--model", "a", "--undo"],
    ["promote", "--models", "models", "--undo"],
    ["promote", "--models", "nowhere", "--undo"],
    ["promote", "--models", "nowhere", "--model", "a"],
    ["promote", "--models", "models", "--model", "other/a"],
    ["models", "nowhere"],
    ["models", "models/a/config.json"],
    ["models", "nosuch://store"],
]


@pytest.mark.parametrize("argv", BAD_USAGE, ids=" ".join)
def test_bad_usage_is_refused_in_one_line(models, monkeypatch, capsys, argv):
    monkeypatch.chdir(models.parent)
    assert exit_code(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ";" in line


def test_a_fingerprint_is_of_captions_tokenizer_and_split():
    references = {"b.jpg": ["a dog", "a cat"], "a.jpg": ["x"]}
    known = references_fingerprint(references, "PTB", "dev")
    assert known == references_fingerprint(
        {"a.jpg": ["x"], "b.jpg": ["a cat", "a dog"]}, "PTB", "dev"
    )
    others = [
        references_fingerprint(references, "other", "dev"),
        references_fingerprint(references, "PTB", "test"),
        references_fingerprint({"b.jpg": ["a dog", "a cat", "x"]}, "PTB", "dev"),
        references_fingerprint({"b.jpg": ["a dog"], "a.jpg": ["a cat", "x"]}, "PTB", "dev"),
        references_fingerprint({**references, "c.jpg": ["x"]}, "PTB", "dev"),
    ]
    assert len({known, *others}) == 6


def test_from_evaluation_to_promotion(source, tmp_path, capsys):
    """The gate reads what evaluate records; evaluating a folder of models means its current one."""
    models = tmp_path / "models"
    train(options(source, models / "old", epochs=1))
    train(options(source, models / "new", epochs=1, seed=1))
    dataset = ["--dataset", str(source / "dataset"), "--features", str(source / "features")]
    at = ["--models", str(models)]
    assert main(["promote", *at, "--model", "old"]) == 0
    assert main(["gate", *at, "--model", "new"]) == 2, "nothing is evaluated yet"
    assert main(["evaluate", "--model", str(models), *dataset]) == 0
    assert "evaluations" not in json.loads((models / "new" / "metrics.json").read_text())
    assert main(["evaluate", "--model", str(models / "new"), *dataset]) == 0
    old, new = (
        json.loads((models / name / "metrics.json").read_text())["evaluations"][0]["scores"][
            "CIDEr"
        ]
        for name in ("old", "new")
    )
    assert main(["gate", *at, "--model", "new"]) == (0 if new >= old else 1)
    assert main(["promote", *at, "--model", "new"]) == 0
    assert pointer_file(models)["history"][1]["cider"] == new
    assert main(["evaluate", "--model", str(models), *dataset, "--split", "test"]) == 2, (
        "there is none"
    )
    rows = pq.read_table(source / "dataset" / "captions.parquet").to_pylist()
    fewer = [
        DatasetCaptionRow(**{n: row[n] for n in COLUMNS})
        for row in rows
        if row["image_id"] != "05.jpg"
    ]
    write(tmp_path / "fewer" / "captions.parquet", fewer, DATASET_CAPTIONS_SCHEMA)
    train(options(source, models / "other", epochs=1, seed=2))
    easier = ["--dataset", str(tmp_path / "fewer"), *dataset[2:]]
    assert main(["evaluate", "--model", str(models / "other"), *easier]) == 0
    capsys.readouterr()
    assert main(["gate", *at, "--model", "other", "--margin", "-1"]) == 2
    assert "of different references" in capsys.readouterr().err
