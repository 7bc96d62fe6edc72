"""Captions are split into tokens, and a vocabulary encodes and decodes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner_core.errors import CaptionerError
from captioner_core.text.vocabulary import (
    END,
    PAD,
    SPECIAL_WORDS,
    START,
    UNKNOWN,
    Vocabulary,
    tokenize,
)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's well-worn, RED ball .", ["a", "dog's", "well-worn", "red", "ball"]),
        ("two   dogs\nrun!", ["two", "dogs", "run"]),
        ("10 people, 2nd row", ["10", "people", "2nd", "row"]),
        ("Ｆｕｌｌ width café", ["full", "width", "café"]),
        ('" . , !', []),
        ("snake_case", ["snake", "case"]),
    ],
)
def test_tokenize_returns_words_without_punctuation(caption, words):
    assert tokenize(caption) == words


@given(st.text())
def test_tokenizing_twice_changes_nothing(text):
    words = tokenize(text)
    assert tokenize(" ".join(words)) == words


@given(st.lists(st.text(alphabet="abc d", max_size=20), max_size=8), st.integers(1, 3))
def test_decoding_returns_the_words_that_were_encoded(captions, min_count):
    vocabulary = Vocabulary.from_captions(captions, min_count)
    for caption in captions:
        decoded = vocabulary.decode(vocabulary.encode(caption, max_words=30))
        expected = [word if word in vocabulary.words else "<unk>" for word in tokenize(caption)]
        assert decoded == " ".join(expected)


def test_encode_truncates_and_pads():
    vocabulary = Vocabulary.from_captions(["one two three"])
    ids = {word: vocabulary.words.index(word) for word in ("one", "two", "three")}
    assert vocabulary.encode("three two one", 2).tolist() == [START, ids["three"], ids["two"], END]
    assert vocabulary.encode("one four", 4).tolist() == [START, ids["one"], UNKNOWN, END, PAD, PAD]


def test_words_are_sorted_by_frequency_then_spelling():
    assert Vocabulary.from_captions(["b a", "b c"]).words == (*SPECIAL_WORDS, "b", "a", "c")


def test_a_vocabulary_read_from_its_json_is_equal():
    vocabulary = Vocabulary.from_captions(["a café"])
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        json.dumps(["a"]),
        json.dumps([*SPECIAL_WORDS, "a", "a"]),
        json.dumps([*SPECIAL_WORDS, 1]),
    ],
)
def test_an_invalid_vocabulary_is_refused(text):
    with pytest.raises(CaptionerError, match="vocabulary"):
        Vocabulary.from_json(text)
