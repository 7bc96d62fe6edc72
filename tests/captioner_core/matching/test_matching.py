"""The search finds what a brute-force reference finds, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import JsonObject
from captioner_core.matching import (
    CaptionIndex,
    ImageVectors,
    Query,
    Search,
    candidate_count,
    caption_group_rows,
    empty_results,
    group_images,
    make_caption_set,
    make_records,
    merge_results,
    open_caption_set,
    result_rows,
    write_caption_set,
)
from captioner_core.matching.exact_search import (
    arrays,
    caption_set,
    pairs,
    projection,
    query_groups,
    search,
)
from captioner_core.runs.identity import image_keys
from captioner_core.tables.schemas import GENERATED, HUMAN, MATCHED, NO_MATCH
from tests.fakes import HashedWords

WORDS = ("dog", "cat", "red", "blue", "two", "x")  # "x" is a word that the encoder doesn't know
captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
images = st.lists(st.tuples(st.sampled_from("abcdef"), captions), max_size=14)
query_captions = st.dictionaries(
    st.sampled_from("abcxyz"), st.sets(captions, min_size=1, max_size=3), max_size=5
)


def brute_force(queries, index, threshold, top_k):
    """Compares every pair of captions, one dot product at a time."""
    encoder = HashedWords()
    vector = {
        text: encoder.encode([text])[0].astype(float)
        for text in {c for _, c in index} | {c for q in queries for c in q.captions}
    }
    answers = []
    for query in queries:
        best: dict[str, float] = {}
        for image_id, caption in index:
            for query_caption in query.captions:
                one = vector[query_caption]
                other = vector[caption]
                if image_id != query.image_id and one.any() and other.any():
                    score = np.float32(round(min(1.0, float(one @ other)), 6))
                    best[image_id] = max(best.get(image_id, -math.inf), float(score))
        ranked = sorted(((-score, image_id) for image_id, score in best.items()))
        above = [
            (image_id, -score) for score, image_id in ranked if -score >= np.float32(threshold)
        ]
        answers.append((above[:top_k], len(above), ranked[0] if ranked else None))
    return answers


def as_queries(captions_by_image):
    """Returns a query for each image, in the order of their ids."""
    return [
        Query(image_id, tuple(sorted(texts)))
        for image_id, texts in sorted(captions_by_image.items())
    ]


def records(rows, source=HUMAN):
    """Returns records of pairs of an image id and a caption."""
    return make_records([r[0] for r in rows], [r[1] for r in rows], [source] * len(rows))


def make_index(rows, image_vectors=None):
    """Returns an index of pairs of an image id and a caption."""
    return CaptionIndex(records(rows), HashedWords(), image_vectors)


def by_image(tables, queries):
    """Returns, for each query, its matches in order of rank and its summary."""
    matches, summary = (table.to_pylist() for table in tables)
    assert (
        [row["query_image_id"] for row in summary] and len(summary) == len(queries)
    ) or not queries
    of_image = {row["query_image_id"]: row for row in summary}
    found: dict[str, list[JsonObject]] = {query.image_id: [] for query in queries}
    for row in matches:
        found[row["query_image_id"]].append(row)
    return [(found[query.image_id], of_image[query.image_id]) for query in queries]


def search_rows(rows, queries, **options):
    """Returns the matches and the summary of each query in an index of these rows."""
    return by_image(make_index(rows).search(queries, **options), queries)


@settings(max_examples=300, deadline=None)
@given(
    query_captions,
    images,
    st.sampled_from([-1.0, 0.0, 0.5, 0.7071068, 0.9, 1.0]),
    st.integers(0, 8),
)
def test_the_search_equals_brute_force(captions_by_image, rows, threshold, top_k):
    queries = as_queries(captions_by_image)
    check(
        search_rows(rows, queries, threshold=threshold, top_k=top_k),
        queries,
        rows,
        threshold,
        top_k,
    )


def check(found, queries, rows, threshold, top_k):
    """Asserts that the results are those of the brute-force reference."""
    expected = brute_force(queries, rows, threshold, top_k)
    assert len(found) == len(queries)
    for query, (matches, summary), (best, n_above, first) in zip(
        queries, found, expected, strict=True
    ):
        assert [m["match_image_id"] for m in matches] == [image_id for image_id, _ in best]
        np.testing.assert_allclose(
            [m["score"] for m in matches], [score for _, score in best], atol=1e-6
        )
        assert [m["rank"] for m in matches] == list(range(1, len(best) + 1))
        assert all(m["query_caption"] in query.captions for m in matches)
        assert (summary["n_above_threshold"], summary["n_written"]) == (n_above, len(best))
        assert summary["status"] == (MATCHED if n_above else NO_MATCH)
        assert summary["best_match_image_id"] == (first[1] if first else None)
        assert (
            math.isnan(summary["best_score"])
            if first is None
            else summary["best_score"] == pytest.approx(-first[0], abs=1e-6)
        )


@pytest.fixture
def small_blocks(monkeypatch):
    """Makes every block as small as possible, and projects every index."""
    for module, name, size in (
        (search, "QUERY_BLOCK", 2),
        (search, "MAX_POSTINGS", 3),
        (pairs, "INDEX_BLOCK", 64),
        (arrays, "BLOCK_ROWS", 3),
        (query_groups, "MAX_GROUP_IMAGES", 2),
        (projection, "MIN_ROWS", 1),
        (projection, "DIMENSION_STEP", 2),
        (caption_set, "ENCODED_AT_ONCE", 3),
    ):
        monkeypatch.setattr(module, name, size)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    query_captions,
    images,
    st.integers(1, 3),
    st.sampled_from([-1.0, 0.5, 0.9]),
    st.integers(0, 3),
    st.randoms(),
)
def test_the_rows_are_the_same_however_the_index_is_divided(
    small_blocks, captions_by_image, rows, parts, threshold, top_k, random
):
    encoder = HashedWords()
    queries = as_queries(captions_by_image)
    whole = make_index(rows).search(queries, threshold=threshold, top_k=top_k)
    query_set = make_caption_set(
        records([(q.image_id, c) for q in queries for c in q.captions]), encoder, searched=False
    )
    groups = group_images(query_set)
    part = {image_id: random.randrange(parts) for image_id, _ in rows}
    search_settings = Search(encoder.calibration, np.float32(threshold), candidate_count(top_k))
    found = [empty_results(groups)]
    for number in range(parts):
        index = make_caption_set(
            records([row for row in rows if part[row[0]] == number]), encoder, searched=True
        )
        found.append(search_settings.run(query_set, groups, index))
    random.shuffle(found)
    merged = merge_results(
        [merge_results(found[:2], search_settings.candidate_count), *found[2:]],
        search_settings.candidate_count,
    )
    tables = result_rows(query_set, groups, merged, top_k, encoder, ImageVectors())
    assert repr(by_image(tables, queries)) == repr(
        by_image(whole, queries)
    )  # repr, since NaN differs from itself
    check(by_image(tables, queries), queries, rows, threshold, top_k)


def test_a_large_index_is_projected_and_gives_the_results_of_the_full_product(monkeypatch):
    random = np.random.default_rng(0)
    axes = random.normal(size=(64, 64)) * np.geomspace(1, 0.02, 64)
    made = {f"{n:04d}": axes.T @ random.normal(size=64) for n in range(3_000)}
    made.update(
        {
            f"copy {n:04d}": made[f"{n:04d}"] + random.normal(size=64) * 0.02
            for n in range(0, 3_000, 3)
        }
    )

    class Drawn(HashedWords):
        dim = 64

        def encode(self, texts):
            rows = np.array([made[text] for text in texts]).reshape(-1, 64)
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr(projection, "MIN_ROWS", 1_000)
    rows = [(f"{text}.jpg", text) for text in made]
    index = make_caption_set(records(rows), Drawn(), searched=True)
    assert index.projection is not None
    assert index.projection.basis.shape[1] == 32
    queries = [Query(image_id, (text,)) for image_id, text in rows]
    found = by_image(
        CaptionIndex(records(rows), Drawn()).search(queries, threshold=0.97, top_k=4), queries
    )
    vectors = Drawn().encode([text for _, text in rows]).astype(np.float64)
    scores = np.round(vectors @ vectors.T, 6).astype(np.float32)
    np.fill_diagonal(scores, -np.inf)
    assert 100 < (scores >= 0.97).any(axis=1).sum() < 3_500
    for number, (matches, summary) in enumerate(found):
        reached = np.flatnonzero(scores[number] >= np.float32(0.97))
        first = sorted(reached, key=lambda other: (-scores[number, other], rows[other][0]))[:4]
        assert [m["match_image_id"] for m in matches] == [rows[other][0] for other in first]
        assert summary["n_above_threshold"] == len(reached)
        assert summary["best_score"] == pytest.approx(scores[number].max(), abs=1e-6)


def test_the_pair_in_the_row_is_the_pair_that_scores():
    index = [("a", "red cat"), ("a", "two dog"), ("b", "blue")]
    ((matches, summary),) = search_rows(
        index, [Query("q", ("red", "two dog"))], threshold=0.9, top_k=5
    )
    pairs_in_rows = [(m["match_image_id"], m["query_caption"], m["match_caption"]) for m in matches]
    assert pairs_in_rows == [("a", "two dog", "two dog")]
    assert summary["query_caption"] == "two dog"


def test_rows_of_the_index_in_any_order_give_the_same_answer():
    rows = [("a", "red dog"), ("b", "red dog"), ("a", "dog red"), ("c", "cat")]
    query = [Query("q", ("red dog",))]
    one = repr(search_rows(rows, query, threshold=0.1, top_k=5))
    assert repr(search_rows(rows[::-1], query, threshold=0.1, top_k=5)) == one


def test_a_caption_from_two_sources_is_reported_as_generated():
    both = make_records(["a", "a"], ["dog", "dog"], [HUMAN, GENERATED])
    matches, _ = CaptionIndex(both, HashedWords()).search(
        [Query("q", ("dog",))], threshold=0.9, top_k=5
    )
    assert matches.column("match_source").to_pylist() == [GENERATED]


def make_image_vectors(joint=None):
    """Returns vectors of the images q, a and b; q and a have equal features."""
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float32)
    keys = image_keys(pa.array(["q", "a", "b"]), "")
    # Pictures that differ in the joint space are different files.
    sha256 = pa.array(["s", "s" if joint is None else "r", "t"])
    joint = np.zeros((0, 0), np.float32) if joint is None else joint
    return ImageVectors(keys, sha256, vectors, joint, digest_keys=keys, digests=sha256)


def test_features_and_duplicates():
    index = make_index([("a", "dog"), ("b", "dog"), ("c", "dog")], make_image_vectors())
    matches = index.search([Query("q", ("dog",))], threshold=0.9, top_k=5)[0].to_pylist()
    assert [m["is_duplicate"] for m in matches] == [True, False, False]
    np.testing.assert_allclose([m["feature_score"] for m in matches], [1, 0.6, np.nan], rtol=1e-6)
    assert all(math.isnan(m["image_text_score"]) for m in matches)


def test_combined_changes_ranks_but_neither_scores_nor_counts():
    joint = np.eye(16, dtype=np.float32)[[3, 7, 3]]  # "b" looks like "q", "a" doesn't
    index = make_index([("a", "dog"), ("b", "dog red"), ("c", "blue")], make_image_vectors(joint))
    query = [Query("q", ("dog",))]
    plain, plain_summary = index.search(query, threshold=0.5, top_k=5)
    assert plain.column("match_image_id").to_pylist() == ["a", "b"]
    assert plain.column("rank_score").to_pylist() == plain.column("score").to_pylist()
    combined, summary = index.search(query, threshold=0.5, top_k=5, combined=True)
    assert combined.column("match_image_id").to_pylist() == ["b", "a"]
    assert sorted(combined.column("score").to_pylist()) == sorted(plain.column("score").to_pylist())
    assert (
        summary.column("n_above_threshold").to_pylist()
        == plain_summary.column("n_above_threshold").to_pylist()
    )
    dog, red = HashedWords().encode(["dog", "dog red"]).astype(float)
    sides = [(dog + joint[0]), (red + joint[2])]
    expected = sides[0] @ sides[1] / np.linalg.norm(sides[0]) / np.linalg.norm(sides[1])
    assert combined.column("rank_score")[0].as_py() == pytest.approx(expected, abs=1e-6)


def test_caption_groups_list_the_images_that_share_captions(small_blocks):
    rows = [("a", "dog"), ("b", "dog"), ("c", "dog"), ("d", "cat"), ("d", "dog"), ("e", "dog")]
    queries = make_caption_set(records(rows), HashedWords(), searched=False)
    found = caption_group_rows(queries, group_images(queries)).to_pylist()
    assert sorted(
        (row["caption"], row["n_captions"], row["n_images"], row["image_ids"][:3]) for row in found
    ) == [
        ("cat", 2, 1, ["d"]),
        ("dog", 1, 4, ["a", "b"]),
    ], "a group cut in pieces is one row, which names the images of its first piece"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(images)
def test_a_caption_set_read_from_its_file_equals_the_original(tmp_path, rows):
    written = make_caption_set(records(rows), HashedWords(), searched=True)
    uri = str(tmp_path / f"{abs(hash(tuple(rows)))}.arrow")
    write_caption_set(written, uri)
    read = open_caption_set(uri)
    assert (read.image_keys, read.captions, read.encoder) == (
        written.image_keys,
        written.captions,
        written.encoder,
    )
    for name in ("vectors", "posting_starts", "posting_image", "is_generated"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.projection is not None
    assert written.projection is not None
    np.testing.assert_array_equal(read.projection.coordinates, written.projection.coordinates)


def test_a_file_that_is_no_caption_set_is_refused_in_one_line(tmp_path):
    (tmp_path / "x.arrow").write_bytes(b"ARROW1 no")
    with pytest.raises(CaptionerError, match="can't be read as arrays"):
        open_caption_set(str(tmp_path / "x.arrow"))
