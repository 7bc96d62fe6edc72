"""A training that starts from a model keeps its words and adds new ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from captioner_core.captioning import network
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions
from captioner_core.training.fine_tuning import (
    EMBEDDINGS,
    OUTPUT_BIAS,
    assign_weights,
    extend_vocabulary,
    initial_config,
    load_initial_model,
)
from captioner_core.training.train import train
from tests.training_runs import make_source
from tests.training_runs import options as training_options

pytestmark = pytest.mark.assets


def options(**changes) -> TrainOptions:
    """Returns options of a training that starts from the packaged model."""
    return TrainOptions(
        **{"dataset": "d", "features": ("f",), "output": "o", "init": "pretrained", **changes}
    )


@pytest.fixture(scope="module")
def initial():
    """Returns the packaged model as a training starts from it."""
    return load_initial_model(options(), load_model("pretrained").config.backbone)


def test_words_keep_their_ids_and_new_words_follow(initial):
    captions = ["a zebra grazes", "a zebra runs", "an okapi"]
    vocabulary = extend_vocabulary(initial.vocabulary, captions, min_count=2)
    assert vocabulary.words[: len(initial.vocabulary)] == initial.vocabulary.words
    assert vocabulary.words[len(initial.vocabulary) :] == ("zebra",)


def test_an_ensemble_lends_its_first_member(initial):
    ensemble = load_model("pretrained")
    assert initial.config.members == 1
    assert set(initial.tensors) == set(initial.config.tensor_shapes())
    np.testing.assert_array_equal(initial.tensors[EMBEDDINGS], ensemble.tensors[f"0/{EMBEDDINGS}"])


def test_a_new_word_begins_near_words_of_similar_meaning(initial):
    vocabulary = extend_vocabulary(initial.vocabulary, ["zebra", "broccoli"], min_count=1)
    captioner = network.Captioner(initial_config(initial, vocabulary))
    assign_weights(captioner, initial, vocabulary)
    embeddings = captioner.named_weights()[EMBEDDINGS].numpy()
    old = initial.tensors[EMBEDDINGS].astype(np.float32)
    np.testing.assert_array_equal(embeddings[: len(old)], old)
    centred = embeddings - embeddings[4:].mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    ids = {word: number for number, word in enumerate(vocabulary.words)}
    cosines = {
        (one, other): centred[ids[one]] @ centred[ids[other]]
        for one in ("zebra", "broccoli")
        for other in ("horse", "food")
    }
    assert cosines["zebra", "horse"] > cosines["zebra", "food"]
    assert cosines["broccoli", "food"] > cosines["broccoli", "horse"]
    bias = captioner.named_weights()[OUTPUT_BIAS].numpy()
    assert bias[-1] < np.median(bias), "nothing is known of the new word yet"


def test_sizes_and_features_must_be_those_of_the_model():
    backbone = load_model("pretrained").config.backbone
    with pytest.raises(CaptionerError, match="--units 64 is not that of --init"):
        load_initial_model(options(units=64), backbone)
    with pytest.raises(CaptionerError, match="reads features of"):
        load_initial_model(options(), "other-299")


def test_a_model_is_trained_further_at_a_lower_rate():
    assert options().peak_rate < options(init="").peak_rate == 1e-3
    assert options(learning_rate=0.01).peak_rate == 0.01
    assert dataclasses.replace(options(), init="").peak_rate == 1e-3


def test_a_training_goes_on_from_a_model(tmp_path):
    first = make_source(tmp_path / "first")
    train(training_options(first, tmp_path / "model", epochs=3))
    second = make_source(tmp_path / "second", first=24, templates=("see the {}", "a zebra {}"))
    train(
        training_options(
            second, tmp_path / "tuned", init=str(tmp_path / "model"), epochs=2, learning_rate=None
        )
    )
    old, new = (load_model(str(tmp_path / name)) for name in ("model", "tuned"))
    assert new.vocabulary.words[: len(old.vocabulary)] == old.vocabulary.words
    assert {"zebra", "see", "the"} <= set(new.vocabulary.words)
    changed = {
        name
        for name, value in old.tensors.items()
        if not np.array_equal(value, new.tensors[name][: len(value)])
    }
    assert EMBEDDINGS in changed
    assert "cell_features/kernel" in changed, "after the first epoch"


def test_the_first_epoch_changes_the_decoder_only(tmp_path):
    source = make_source(tmp_path / "source")
    train(training_options(source, tmp_path / "model", epochs=2))
    train(
        training_options(
            source, tmp_path / "tuned", init=str(tmp_path / "model"), epochs=1, learning_rate=1e-3
        )
    )
    old, new = (load_model(str(tmp_path / name)).tensors for name in ("model", "tuned"))
    # Weight decay changes the others by a thousandth at most.
    np.testing.assert_allclose(old["keys/kernel"], new["keys/kernel"], rtol=1e-3, atol=1e-6)
    assert np.abs(old["lstm/lstm_cell/kernel"] - new["lstm/lstm_cell/kernel"]).max() > 1e-3
