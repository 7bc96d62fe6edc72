"""The search against a brute-force reference, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner_core import matching
from captioner_core.matching import CaptionIndex, ImageFacts, Query
from captioner_core.schemas import MATCHED, NO_MATCH
from tests.fakes import HashedWords

WORDS = ("dog", "cat", "red", "blue", "two", "x")  # "x" is a word that the encoder doesn't know
captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
images = st.lists(st.tuples(st.sampled_from("abcdef"), captions), max_size=14)


def brute_force(queries, index, threshold, top_k):
    """Every pair of captions, one dot product at a time."""
    encoder = HashedWords()
    vector = {
        text: encoder.encode([text])[0].astype(float)
        for text in {c for _, c in index} | {c for q in queries for c in q.captions}
    }
    answers = []
    for query in queries:
        best: dict[str, float] = {}
        for image_id, caption in index:
            for asked in query.captions:
                one, other = vector[asked], vector[caption]
                if image_id != query.image_id and one.any() and other.any():
                    score = np.float32(round(min(1.0, float(one @ other)), 6))
                    best[image_id] = max(best.get(image_id, -math.inf), score)
        ranked = sorted(((-score, image_id) for image_id, score in best.items()))
        above = [(image_id, -score) for score, image_id in ranked if -score >= np.float32(threshold)]
        answers.append((above[:top_k], len(above), ranked[0] if ranked else None))
    return answers


def in_order(answers, queries):
    """Answers come by captions; tests ask by image."""
    of_image = {summary.query_image_id: (matches, summary) for matches, summary in answers}
    return [of_image[query.image_id] for query in queries]


def make_index(rows):
    return CaptionIndex([r[0] for r in rows], [r[1] for r in rows], ["human"] * len(rows), HashedWords())


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcxyz"), st.sets(captions, min_size=1, max_size=3), max_size=5),
    images,
    st.sampled_from([-1.0, 0.0, 0.5, 0.7071068, 0.9, 1.0]),
    st.integers(0, 8),
)
def test_equals_brute_force(asked, rows, threshold, top_k):
    queries = [Query(image_id, tuple(sorted(texts))) for image_id, texts in sorted(asked.items())]
    found = in_order(make_index(rows).search(queries, threshold=threshold, top_k=top_k), queries)
    expected = brute_force(queries, rows, threshold, top_k)
    assert len(found) == len(queries)
    for query, (matches, summary), (best, n_above, first) in zip(queries, found, expected, strict=True):
        assert [m.match_image_id for m in matches] == [image_id for image_id, _ in best]
        np.testing.assert_allclose([m.score for m in matches], [score for _, score in best], atol=1e-6)
        assert [m.rank for m in matches] == list(range(1, len(best) + 1))
        assert all(m.query_caption in query.captions and m.query_image_id == query.image_id for m in matches)
        assert (summary.n_above_threshold, summary.n_written) == (n_above, len(best))
        assert summary.status == (MATCHED if n_above else NO_MATCH)
        assert summary.best_match_image_id == (first[1] if first else None)
        assert (
            math.isnan(summary.best_score)
            if first is None
            else summary.best_score == pytest.approx(-first[0], abs=1e-6)
        )


@settings(max_examples=50, deadline=None)
@given(images, st.integers(1, 5))
def test_blocks_change_nothing(rows, block):
    queries = [Query(str(number), (caption,)) for number, (_, caption) in enumerate(rows)]
    whole = in_order(make_index(rows).search(queries, threshold=0.5, top_k=3), queries)
    matches_one_by_one = [
        answer for query in queries for answer in make_index(rows).search([query], threshold=0.5, top_k=3)
    ]
    assert repr(whole) == repr(matches_one_by_one)  # repr, since NaN differs from itself
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_QUERY_BLOCK", "_INDEX_BLOCK", "_ENTRIES_AT_ONCE", "_SCORED_AT_ONCE"):
            patch.setattr(matching, name, block)
        cut = in_order(make_index(rows).search(queries, threshold=0.5, top_k=3), queries)
    assert repr(cut) == repr(whole)


def test_the_pair_shown_is_the_pair_that_scores():
    index = make_index([("a", "red cat"), ("a", "two dog"), ("b", "blue")])
    ((matches, summary),) = index.search([Query("q", ("red", "two dog"))], threshold=0.9, top_k=5)
    assert [(m.match_image_id, m.query_caption, m.match_caption) for m in matches] == [("a", "two dog", "two dog")]
    assert summary.query_caption == "two dog"


def test_rows_of_the_index_in_any_order_give_the_same_answer():
    rows = [("a", "red dog"), ("b", "red dog"), ("a", "dog red"), ("c", "cat")]
    query = [Query("q", ("red dog",))]
    one = repr(list(make_index(rows).search(query, threshold=0.1, top_k=5)))
    assert repr(list(make_index(rows[::-1]).search(query, threshold=0.1, top_k=5))) == one


def test_features_and_duplicates():
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float32)
    facts = ImageFacts({"q": 0, "a": 1, "b": 2}, vectors, ("s", "s", "t"))
    index = CaptionIndex(["a", "b", "c"], ["dog"] * 3, ["human", "generated", "human"], HashedWords(), facts)
    ((matches, _),) = index.search([Query("q", ("dog",))], threshold=0.9, top_k=5)
    assert [m.is_duplicate for m in matches] == [True, False, False]
    assert [m.match_source for m in matches] == ["human", "generated", "human"]
    np.testing.assert_allclose([m.feature_score for m in matches], [1, 0.6, np.nan], rtol=1e-6)
    assert all(math.isnan(m.image_text_score) for m in matches)
