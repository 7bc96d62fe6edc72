"""Every encoder fulfils the contract of encoders, with its real vectors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.vocab import Vocab

import captioner_core
from captioner_core.errors import CaptionerError
from captioner_core.options import ENCODERS, JOINT_ENCODERS
from captioner_core.text.encoders import load_encoder
from captioner_core.text.encoders.base import JointEncoder
from captioner_core.text.encoders.learned import MAX_WEIGHTS_BYTES, SHIPPED, WORDS, LearnedEncoder
from captioner_core.weights import assets

PACKAGED = Path(captioner_core.__file__).parent / SHIPPED

TEXTS = [
    "A brown dog runs through the grass .",
    "two cats sleep on a sofa",
    "grass runs dog brown",
    "Zzqx vvfw",
    "",
    "of the a",
]


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    """Returns an encoder with its real vectors."""
    return load_encoder(request.param)


def test_options_know_which_encoders_encode_images(encoder):
    """A run is refused by the option's value, before an encoder is loaded."""
    assert isinstance(encoder, JointEncoder) == (encoder.name in JOINT_ENCODERS)


def test_rows_have_unit_length(encoder):
    encoded = encoder.encode(TEXTS)
    assert encoded.shape == (len(TEXTS), encoder.dim)
    assert encoded.dtype == np.float32
    lengths = np.linalg.norm(encoded, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-6) | (lengths == 0))
    assert lengths[0] > 0


def test_a_text_without_known_words_is_zero(encoder):
    assert not encoder.encode([""]).any()
    if encoder.name != "minilm":  # MiniLM splits any string into pieces of words.
        assert not encoder.encode(["Zzqx vvfw"]).any()


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_row_depends_on_its_own_text_to_the_last_bit(encoder):
    rows = encoder.encode(TEXTS)
    # MiniLM's matrix products depend on their number of rows.
    rounding = 1e-6 if encoder.name == "minilm" else 0.0
    for text, row in zip(TEXTS, rows, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], row, rtol=0, atol=rounding)


def test_the_fingerprint_names_the_encoder_and_does_not_change(encoder):
    assert encoder.fingerprint.startswith(encoder.name)
    assert load_encoder(encoder.name).fingerprint == encoder.fingerprint


def test_similar_captions_are_nearer_than_others(encoder):
    dog, puppy, plane = encoder.encode(
        ["a dog runs on grass", "a puppy runs over a lawn", "an airplane in the sky"]
    )
    assert dog @ puppy > dog @ plane


def test_scores_rise_with_cosines_and_stay_within_one(encoder):
    scores = encoder.calibration.scores(np.linspace(-1, 1, 2001))
    assert np.all(np.diff(scores) > 0)
    assert (scores[0], scores[-1]) == (-1, 1)
    np.testing.assert_allclose(
        encoder.calibration.scores(np.array([encoder.calibration.cosine])), 0.9
    )
    shares = encoder.calibration.yes_curve.shares(np.linspace(-1, 1, 100))
    assert np.all(np.diff(shares) > 0)
    assert 0 < shares[0] < shares[-1] < 1


def test_learned_knows_words_that_training_never_saw():
    """Words that are not in the encoder's own table get their vectors from spaCy."""
    words = (PACKAGED / WORDS).read_text(encoding="utf-8")
    assert '"spaniels"' not in words
    encoder = load_encoder("learned")
    unseen, dog, plane = encoder.encode(["spaniels", "a dog", "an airplane"])
    assert unseen @ dog > unseen @ plane


def test_learned_encodes_images_as_unit_rows_in_any_batch():
    encoder = load_encoder("learned")
    assert isinstance(encoder, JointEncoder)
    features = np.random.default_rng(0).random((5, 2048), np.float32)
    images = encoder.encode_images(features)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(3 * features[:1])[0], images[0], atol=1e-5)


@pytest.mark.parametrize("broken", ["weights.safetensors", "words.json", "config.json"])
def test_a_damaged_encoder_is_refused_in_one_line(tmp_path, broken):
    folder = tmp_path / "encoder"
    shutil.copytree(PACKAGED, folder)
    LearnedEncoder(str(folder))
    (folder / broken).write_bytes((folder / broken).read_bytes()[:100])
    with pytest.raises(CaptionerError, match="encoder folder") as caught:
        LearnedEncoder(str(folder))
    assert "\n" not in str(caught.value)


def test_weights_of_an_encoder_beyond_the_limit_are_not_read(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(PACKAGED, folder)
    os.truncate(folder / "weights.safetensors", MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(CaptionerError, match=f"holds more than {MAX_WEIGHTS_BYTES} bytes"):
        LearnedEncoder(str(folder))


def test_spacy_mean_has_the_direction_of_doc_vector():
    nlp = spacy.blank("en", vocab=Vocab().from_disk(assets.spacy_vocab()))
    encoded = load_encoder("spacy-mean").encode(TEXTS[:3])
    for row, text in zip(encoded, TEXTS, strict=False):
        expected = nlp(text).vector
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)


def test_spacy_content_drops_grammar_and_keeps_numbers():
    encoder = load_encoder("spacy-content")
    one, same, other = encoder.encode(
        ["two dogs on the beach", "Two dogs at a beach!", "the dogs on the beach"]
    )
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert one @ other < 0.99


def test_an_unknown_encoder_is_refused():
    with pytest.raises(CaptionerError, match="spacy-content"):
        load_encoder("word2vec")
