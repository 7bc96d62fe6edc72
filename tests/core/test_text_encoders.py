"""One contract for every encoder there is, on the real vectors."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
from spacy.vocab import Vocab

from captioner_core import assets
from captioner_core.errors import CaptionerError
from captioner_core.options import ENCODERS
from captioner_core.text_encoders import load_encoder

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
    return load_encoder(request.param)


def test_shape_and_unit_rows(encoder):
    encoded = encoder.encode(TEXTS)
    assert encoded.shape == (len(TEXTS), encoder.dim)
    assert encoded.dtype == np.float32
    lengths = np.linalg.norm(encoded, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-6) | (lengths == 0))
    assert lengths[0] > 0


def test_no_known_word_is_zero(encoder):
    assert not encoder.encode(["Zzqx vvfw", ""]).any()


def test_no_text_at_all(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_row_depends_on_its_own_text_to_the_last_bit(encoder):
    together = encoder.encode(TEXTS)
    for place, text in enumerate(TEXTS):
        np.testing.assert_array_equal(encoder.encode([text])[0], together[place])


def test_fingerprint_names_the_encoder_and_stays(encoder):
    assert encoder.fingerprint.startswith(encoder.name)
    assert load_encoder(encoder.name).fingerprint == encoder.fingerprint


def test_like_captions_are_nearer_than_unlike_ones(encoder):
    dog, puppy, plane = encoder.encode(["a dog runs on grass", "a puppy runs over a lawn", "an airplane in the sky"])
    assert dog @ puppy > dog @ plane


def test_spacy_mean_points_where_doc_vector_does():
    nlp = spacy.blank("en", vocab=Vocab().from_disk(assets.spacy_vocab()))
    encoded = load_encoder("spacy-mean").encode(TEXTS[:3])
    for row, text in zip(encoded, TEXTS, strict=False):
        expected = nlp(text).vector
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)


def test_spacy_content_leaves_grammar_out_and_numbers_in():
    encoder = load_encoder("spacy-content")
    one, same, other = encoder.encode(["two dogs on the beach", "Two dogs at a beach!", "the dogs on the beach"])
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert one @ other < 0.99


def test_an_unknown_encoder_is_refused():
    with pytest.raises(CaptionerError, match="spacy-content"):
        load_encoder("word2vec")
