"""The scores are the field's own: known captions get known figures."""

from __future__ import annotations

import pytest

from captioner_core import evaluation
from captioner_core.errors import CaptionerError
from captioner_core.evaluation import score

REFERENCES = {
    "one.jpg": ["a brown dog runs on the green grass", "the dog is running"],
    "two.jpg": ["two children play in the water", "kids swim in a lake"],
}


def test_the_references_themselves_score_one():
    scores = score({image: listed[0] for image, listed in REFERENCES.items()}, REFERENCES)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert scores[name] == pytest.approx(1.0, abs=1e-6)
    assert scores["CIDEr"] > 1


def test_bleu_counts_words_by_hand(monkeypatch):
    """ "a dog runs here" has three of its four words in the reference, and the brevity penalty is exp(1 - 5/4)."""
    monkeypatch.setattr(evaluation, "has_java", lambda: False)
    scores = score({"x": "a dog runs here"}, {"x": ["a dog runs very fast"]})
    assert scores["BLEU-1"] == pytest.approx(0.75 * 2.718281828 ** (1 - 5 / 4), rel=1e-4)


def test_wrong_captions_score_low_and_case_and_punctuation_do_not_count():
    swapped = {"one.jpg": "two children play in the water", "two.jpg": "a brown dog runs on the green grass"}
    assert score(swapped, REFERENCES)["BLEU-4"] < 0.1
    shouted = {image: listed[0].upper() + " ." for image, listed in REFERENCES.items()}
    assert score(shouted, REFERENCES)["BLEU-4"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("hypotheses", "references"), [({}, REFERENCES), ({"three.jpg": "a dog"}, REFERENCES), ({"x": "a"}, {"x": []})]
)
def test_nothing_to_score_against_is_refused(hypotheses, references):
    with pytest.raises(CaptionerError, match="no reference"):
        score(hypotheses, references)
