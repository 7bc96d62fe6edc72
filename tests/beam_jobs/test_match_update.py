"""Matching in partitions and ``match --update`` give the same rows as matching all at once.

The captions are short and use few words, so that many are similar and some are equal. The tests
compare all match tables of two runs exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from beam_jobs import match_captions
from captioner_cli.main import main
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.matching.exact_search.search import Search
from captioner_core.options import MatchOptions
from captioner_core.runs import commits
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import CAPTIONS_SCHEMA, rows_as_table
from tests.runs import make_caption_row

# fmt: off
WORDS = (
    "dog", "cat", "man", "woman", "red", "blue", "green", "grass", "water", "street", "runs",
    "sits", "plays", "jumps", "two", "three", "old", "young",
)
# fmt: on
MODEL = "lstm-1"


def make_captions(seed, names):
    """Returns a random caption of one to four words for each image name."""
    random = np.random.default_rng(seed)
    return {name: " ".join(random.choice(WORDS, random.integers(1, 5))) for name in names}


def write_captions(path, captions, model_id=MODEL, confidence=None):
    """Writes a captions table from texts by image name, and returns its path.

    Args:
      path: the path.
      captions: the text of each image.
      model_id: the model that wrote the texts.
      confidence: the confidence of some images' captions, by image name.
    """
    rows = [
        dataclasses.replace(
            make_caption_row(name, text, model_id=model_id),
            confidence=(confidence or {}).get(name),
        )
        for name, text in captions.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_as_table(rows, "r", CAPTIONS_SCHEMA), path)
    return str(path)


@pytest.fixture
def first(tmp_path):
    """Returns a captions table of 120 images in folder ``a``."""
    return write_captions(
        tmp_path / "first.parquet", make_captions(0, [f"a/{n:03d}" for n in range(120)])
    )


@pytest.fixture
def second(tmp_path):
    """Returns a captions table of 40 images in folder ``b``."""
    return write_captions(
        tmp_path / "second.parquet", make_captions(1, [f"b/{n:03d}" for n in range(40)])
    )


def match(tmp_path, run_id, **options):
    """Runs the match job with the usual options of these tests and some others."""
    defaults = {
        "output": str(tmp_path / "root"),
        "run_id": run_id,
        "threshold": 0.85,
        "top_k": 3,
        "encoder": "learned",
    }
    return match_captions.run(MatchOptions(**{**defaults, **options}))


def rows(tmp_path, run_id):
    """Verifies a run, and returns its match tables in a fixed order, without the run's name."""
    run = RunLayout(str(tmp_path / "root"), run_id)
    assert verify(run.run_dir) == []
    orders = {
        "matches": ["query_image_id", "rank"],
        "match_summary": ["query_image_id"],
        "caption_groups": ["caption", "n_captions"],
        "match_inputs": ["side", "image_id", "caption"],
    }
    return {
        name: storage.read_table(run.table(name))
        .to_pandas()
        .drop(columns="run_id")
        .sort_values(by, ignore_index=True)
        for name, by in orders.items()
    }


def assert_same_rows(actual, expected):
    """Checks that two runs have exactly the same match tables."""
    for name, frame in actual.items():
        pd.testing.assert_frame_equal(frame, expected[name], check_exact=True, obj=name)


def test_images_with_an_uncertain_caption_are_kept_out_and_marked(tmp_path):
    """They are as if they were not there, but for their row of ``match_summary``."""
    captions = make_captions(0, [f"a/{n:03d}" for n in range(60)])
    confidence = {name: number / 60 for number, name in enumerate(captions)}
    del confidence["a/000"]  # Not known, so it is matched.
    certain = {name: text for name, text in captions.items() if confidence.get(name, 1) >= 0.5}
    everything = write_captions(tmp_path / "all.parquet", captions, confidence=confidence)
    match(tmp_path, "all", captions=everything, index=everything, min_confidence=0.5)
    table = write_captions(tmp_path / "some.parquet", certain)
    match(tmp_path, "some", captions=table, index=table)
    actual, expected = rows(tmp_path, "all"), rows(tmp_path, "some")
    summary = actual["match_summary"]
    uncertain = summary[summary.status == "uncertain"]
    assert set(uncertain.query_image_id) == captions.keys() - certain.keys()
    assert (uncertain.query_caption == uncertain.query_image_id.map(captions)).all()
    assert set(actual.pop("match_inputs").image_id) == captions.keys(), "nothing is lost"
    actual["match_summary"] = summary.drop(uncertain.index).reset_index(drop=True)
    for frame in (*actual.values(), *expected.values()):
        frame.drop(columns=[name for name in frame if "collection" in name], inplace=True)
    assert_same_rows(actual, expected)


def test_an_update_keeps_uncertain_images_out_as_well(tmp_path):
    captions = make_captions(0, [f"a/{n:03d}" for n in range(60)])
    more = make_captions(1, [f"b/{n:03d}" for n in range(30)])
    confidence = {name: int(name[2:]) % 10 / 10 for name in captions | more}
    old = write_captions(tmp_path / "old.parquet", captions, confidence=confidence)
    new = write_captions(tmp_path / "new.parquet", more, confidence=confidence)
    match(tmp_path, "r", captions=old, index=old, min_confidence=0.3)
    match(
        tmp_path,
        None,
        output=None,
        update=str(tmp_path / "root/runs/r"),
        captions=new,
        index=new,
        min_confidence=0.3,
    )
    match(tmp_path, "both", captions=(old, new), index=(old, new), min_confidence=0.3)
    assert_same_rows(rows(tmp_path, "r"), rows(tmp_path, "both"))


@pytest.fixture
def small_partitions(monkeypatch):
    """Makes partitions so small that these tables are searched in several."""
    monkeypatch.setattr(match_captions, "CAPTIONS_PER_QUERY_PART", 25)
    monkeypatch.setattr(match_captions, "CAPTIONS_PER_INDEX_PART", 30)


@pytest.mark.parametrize("top_k", [0, 2, 500])
def test_searching_in_partitions_gives_the_same_rows(tmp_path, first, second, monkeypatch, top_k):
    options = {"captions": (first, second), "index": (second, first), "top_k": top_k}
    match(tmp_path, "unpartitioned", **options)
    monkeypatch.setattr(match_captions, "CAPTIONS_PER_QUERY_PART", 25)
    monkeypatch.setattr(match_captions, "CAPTIONS_PER_INDEX_PART", 30)
    match(tmp_path, "partitioned", **options)
    expected = rows(tmp_path, "unpartitioned")
    assert_same_rows(rows(tmp_path, "partitioned"), expected)
    summary = expected["match_summary"]
    assert 20 < (summary.n_above_threshold > 2).sum() < 160
    assert (summary.status == "no_match").sum() > 5


@pytest.mark.parametrize("top_k", [0, 1, 3, 500])
@pytest.mark.parametrize("in_place", [True, False])
def test_an_update_equals_matching_everything(
    tmp_path, first, second, small_partitions, top_k, in_place
):
    match(tmp_path, "kept", captions=(first,), index=(first,), top_k=top_k)
    earlier = str(tmp_path / "root" / "runs" / "kept")
    before = rows(tmp_path, "kept")

    # In the first folder images are removed, one is renamed, and some get other captions.
    # The second folder is new.
    changed = make_captions(0, [f"a/{n:03d}" for n in range(120)])
    for number in range(0, 30, 3):
        del changed[f"a/{number:03d}"]
    changed["a/moved"] = changed.pop("a/050")
    changed.update(make_captions(7, [f"a/{n:03d}" for n in range(60, 70)]))
    write_captions(tmp_path / "first.parquet", changed)

    match(tmp_path, "complete", captions=(first, second), index=(first, second), top_k=top_k)
    target = {"output": None, "run_id": None} if in_place else {"run_id": "updated"}
    match(tmp_path, **target, captions=(second,), update=earlier, top_k=top_k)
    assert_same_rows(rows(tmp_path, "kept" if in_place else "updated"), rows(tmp_path, "complete"))
    if not in_place:
        assert_same_rows(rows(tmp_path, "kept"), before)


def test_an_updated_run_can_be_updated_again_and_loses_dropped_tables(tmp_path, first, second):
    match(tmp_path, "run", captions=(first,), index=(first,))
    run = str(tmp_path / "root" / "runs" / "run")
    match(tmp_path, None, output=None, captions=(second,), update=run)
    manifest = match(tmp_path, None, output=None, update=run, drop=(first,))
    assert manifest["options"]["captions"] == (second,)
    match(tmp_path, "complete", captions=(second,), index=(second,))
    assert_same_rows(rows(tmp_path, "run"), rows(tmp_path, "complete"))


def test_new_images_join_the_index_only_if_the_earlier_ones_did(tmp_path, first, second):
    match(tmp_path, "run", captions=(first,), index=(second,))
    third = write_captions(tmp_path / "third.parquet", make_captions(2, ["c/1", "c/2"]))
    manifest = match(
        tmp_path, None, output=None, captions=(third,), update=str(tmp_path / "root/runs/run")
    )
    assert manifest["options"]["index"] == (second,)
    match(tmp_path, "complete", captions=(first, third), index=(second,))
    assert_same_rows(rows(tmp_path, "run"), rows(tmp_path, "complete"))


def count_searched_pairs(monkeypatch):
    """Returns a list that receives the number of caption pairs of each search."""
    pair_counts: list[int] = []
    run = Search.run

    def count(self, queries, groups, index, group_range):
        starts = groups.caption_starts
        n_captions = starts[group_range.stop] - starts[group_range.start]
        pair_counts.append(n_captions * len(index.captions))
        return run(self, queries, groups, index, group_range)

    monkeypatch.setattr(Search, "run", count)
    return pair_counts


def test_an_update_searches_only_what_is_new(tmp_path, monkeypatch):
    old = write_captions(
        tmp_path / "old.parquet", {f"a{n}": f"dog number {WORDS[n % 18]} {n}" for n in range(90)}
    )
    new = write_captions(
        tmp_path / "new.parquet", {f"b{n}": f"cat number {WORDS[n % 18]} {n}" for n in range(10)}
    )
    match(tmp_path, "run", captions=(old,), index=(old,))
    pair_counts = count_searched_pairs(monkeypatch)
    match(
        tmp_path, None, output=None, captions=(new,), update=str(tmp_path / "root" / "runs" / "run")
    )
    new_against_all = 10 * 100
    old_against_new = 90 * 10
    assert sum(pair_counts) == new_against_all + old_against_new


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.9}, "--threshold 0.9 differs from that of"),
        ({"top_k": 4}, "--top-k 4 differs from that of"),
        ({"encoder": "tfidf"}, "--encoder 'tfidf' differs from that of"),
        ({"update": "nowhere/runs/x"}, "no manifest.json"),
        ({"update": "nowhere"}, "no run's folder"),
        ({"drop": ("other",)}, "--drop 'other' is no table"),
        ({"rank_by": "combined"}, "--rank-by combined"),
    ],
)
def test_options_that_contradict_the_earlier_run_are_refused(tmp_path, first, change, message):
    match(tmp_path, "run", captions=(first,), index=(first,))
    before = rows(tmp_path, "run")
    options = {"update": str(tmp_path / "root" / "runs" / "run"), **change}
    with pytest.raises(CaptionerError, match=message):
        match(tmp_path, None, output=None, **options)
    assert_same_rows(rows(tmp_path, "run"), before)


def test_an_update_with_another_encoder_names_both_fingerprints(tmp_path, first):
    match(tmp_path, "run", captions=(first,), index=(first,))
    run = RunLayout(str(tmp_path / "root"), "run")
    manifest = commits.read_manifest(run.run_dir)
    fingerprint = manifest["encoder"]["fingerprint"]
    storage.write_json(
        run.manifest, {**manifest, "encoder": {"name": "learned", "fingerprint": "learned/other"}}
    )
    with pytest.raises(CaptionerError, match=f"(?s)'learned/other'.*{fingerprint!r}"):
        match(tmp_path, None, output=None, update=run.run_dir)


def test_captions_of_two_models_are_refused_with_both_model_ids(tmp_path, first, second):
    write_captions(tmp_path / "second.parquet", make_captions(1, ["b"]), "lstm-2")
    with pytest.raises(CaptionerError, match=r"(?s)'lstm-1'.*'lstm-2'"):
        match(tmp_path, "run", captions=(first,), index=(first, second))


def test_a_run_with_its_own_captions_is_not_updated_in_place_with_others(tmp_path, second):
    run = RunLayout(str(tmp_path / "root"), "run")
    write_captions(
        tmp_path / "root" / "runs" / "run" / "captions" / "part-00000.parquet",
        make_captions(0, ["a"]),
    )
    captions = run.table("captions")
    manifest = commits.new_manifest(run)
    storage.write_json(run.manifest, {**manifest, "stages": {"caption": {"wall_time_s": 1}}})
    match(tmp_path, "run", captions=(captions,), index=(captions,))
    with pytest.raises(CaptionerError, match="captions of its own"):
        match(tmp_path, None, output=None, captions=(second,), update=run.run_dir)
    match(tmp_path, "both", captions=(second,), update=run.run_dir)
    assert len(rows(tmp_path, "both")["match_summary"]) == 41


def test_a_run_refuses_an_index_of_another_model_before_it_captions_anything(
    tmp_path, first, capsys
):
    (tmp_path / "images").mkdir()
    command = [
        "run",
        "--images",
        str(tmp_path / "images"),
        "--output",
        str(tmp_path / "out"),
        "--index",
        first,
    ]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "'lstm-1'" in error
    assert load_model("pretrained").model_id in error
    assert not (tmp_path / "out").exists()
