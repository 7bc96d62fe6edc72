"""Training on several datasets: one vocabulary, figures of each, and no image in train and dev."""

from __future__ import annotations

import json

import numpy as np
import pytest

from captioner_cli.main import main
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.training.dataset import FeatureStore, Split, SplitPart, encode_captions
from captioner_core.training.rewards.self_critical import CaptionReward
from captioner_core.training.train import train
from tests.training_runs import make_source, options, weights


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Returns a second source: other images, and captions in other words."""
    folder = tmp_path_factory.mktemp("other")
    return make_source(folder, first=100, templates=("one {} outside",))


def both(source, other, output, **changes):
    """Returns options of a training on two datasets."""
    return options(
        source,
        output,
        dataset=(str(source / "dataset"), str(other / "dataset")),
        features=(str(source / "features"), str(other / "features")),
        **changes,
    )


def metrics(folder):
    """Returns the figures of a training."""
    return json.loads((folder / "metrics.json").read_text())


def test_a_model_learns_the_words_of_every_dataset(source, other, tmp_path):
    train(both(source, other, tmp_path / "model", epochs=2, reinforce_epochs=1))
    words = load_model(str(tmp_path / "model")).vocabulary.words
    assert {"stands", "outside"} <= set(words)
    figures = metrics(tmp_path / "model")
    assert figures["images"] == {"train": 40, "dev": 8}
    assert figures["captions"] == {"train": 60, "dev": 12}
    assert [one["images"] for one in figures["datasets"]] == [{"train": 20, "dev": 4}] * 2
    last = figures["history"][-1]
    assert len(last["dev_losses"]) == len(last["dev_rewards"]) == 2
    assert last["dev_loss"] == pytest.approx(np.mean(last["dev_losses"]))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert f"`{source / 'dataset'}`, `{other / 'dataset'}`" in card


def test_the_card_tells_the_scores_of_each_dataset(source, other, tmp_path):
    given = both(source, other, tmp_path / "model", epochs=1)
    train(given)
    command = ["evaluate", f"--model={tmp_path / 'model'}"]
    datasets = [f"--dataset={name}" for name in given.dataset]
    assert main([*command, *datasets, *(f"--features={uri}" for uri in given.features)]) == 0
    lines = (tmp_path / "model" / "MODEL_CARD.md").read_text().splitlines()
    assert any(line.startswith("| dataset | split | images | beam | BLEU-1 |") for line in lines)
    assert sum(line.startswith("| dataset | dev | 4 | 3 |") for line in lines) == 2


def test_the_order_of_workers_images_does_not_depend_on_datasets(source, other, tmp_path):
    """Features of the second dataset must not land in rows of the first."""
    one = both(source, other, tmp_path / "one", epochs=40)
    train(one)
    last = metrics(tmp_path / "one")["history"][-1]
    assert max(last["dev_losses"]) < 1, "every dev image is recognised by its features"


def test_a_dataset_counts_as_much_as_its_weight(source, other, tmp_path):
    for name, dataset_weight in (("little", (1.0, 0.01)), ("much", (0.01, 1.0))):
        train(both(source, other, tmp_path / name, dataset_weight=dataset_weight))
    little, much = (
        metrics(tmp_path / name)["history"][-1]["dev_losses"] for name in ("little", "much")
    )
    assert little[0] < much[0]
    assert little[1] > much[1]


def test_equal_weights_change_nothing(source, other, tmp_path):
    train(both(source, other, tmp_path / "without", epochs=2))
    train(both(source, other, tmp_path / "with", epochs=2, dataset_weight=(1.0, 1.0)))
    for name, value in weights(tmp_path / "without").items():
        np.testing.assert_array_equal(weights(tmp_path / "with")[name], value)


def test_training_images_that_show_a_dev_image_of_another_dataset_are_left_out(
    source, tmp_path, capsys
):
    """The first dataset holds images 0 to 23, the second 5 to 28, and every sixth is dev."""
    overlapping = make_source(tmp_path, first=5)
    train(both(source, overlapping, tmp_path / "model", epochs=1))
    said = capsys.readouterr().err
    for number, folder in ((3, source), (4, overlapping)):
        name = str(folder / "dataset")
        assert f"{number} training images of {name!r} show the same as dev images" in said
    figures = metrics(tmp_path / "model")
    assert [one["images"]["train"] for one in figures["datasets"]] == [17, 16]


def test_datasets_that_do_not_fit_each_other_are_refused(source, other, tmp_path):
    given = both(source, other, tmp_path / "model")
    with pytest.raises(CaptionerError, match="--features is given 1 times and --dataset 2 times"):
        options(source, tmp_path / "model", dataset=given.dataset)
    with pytest.raises(CaptionerError, match="--mirrored is given 1 times"):
        both(source, other, tmp_path / "model", mirrored="features")
    with pytest.raises(CaptionerError, match=r"--dataset-weight 0\.0 must be 0\.001 to 1000"):
        both(source, other, tmp_path / "model", dataset_weight=(1.0, 0.0))


def test_each_caption_is_rewarded_by_its_own_dataset():
    captions = [["a dog"], ["a dog"], ["a cat"], ["a dog"]]
    vocabulary = Vocabulary.from_captions(["a dog", "a cat"])
    rewards = [CaptionReward(part, vocabulary) for part in (captions[:1], captions[1:])]
    parts = (SplitPart("a", 1, 1.0, rewards[0]), SplitPart("b", 3, 0.5, rewards[1]))
    encoded = encode_captions(captions, vocabulary, 4)
    split = Split(encoded, FeatureStore(np.zeros((4, 1, 1), np.float16)), parts)
    rows = np.array([3, 0, 2])
    assert split.part_of(rows).tolist() == [1, 0, 1]
    # The mean over the four images is 1.
    np.testing.assert_allclose(split.weights(rows), [0.8, 1.6, 0.8], rtol=1e-6)
    words = encoded.words[rows][:, :, 1:]
    np.testing.assert_array_equal(
        split.score(rows, words)[:, 0],
        [
            rewards[1].score(np.array([2]), words[:1])[0, 0],
            rewards[0].score(np.array([0]), words[1:2])[0, 0],
            rewards[1].score(np.array([1]), words[2:])[0, 0],
        ],
    )
