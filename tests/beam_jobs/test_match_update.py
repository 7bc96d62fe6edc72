"""Matching in parts, and bringing an earlier run's matches up to date: the same rows as doing it all at once."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from beam_jobs import match_captions
from captioner_cli.main import main
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import MatchOptions
from captioner_core.runs import commits
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import CAPTIONS_SCHEMA, CaptionRow, rows_as_table

WORDS = (
    "dog",
    "cat",
    "man",
    "woman",
    "red",
    "blue",
    "green",
    "grass",
    "water",
    "street",
    "runs",
    "sits",
    "plays",
)
WORDS += ("jumps", "two", "three", "old", "young")
MODEL = "lstm-1"


def captions_of(seed, names):
    """A caption for each name, of few words, so that many are alike and some the same."""
    random = np.random.default_rng(seed)
    return {name: " ".join(random.choice(WORDS, random.integers(1, 5))) for name in names}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write_captions(path, captions, model_id=MODEL):
    rows = [
        CaptionRow(
            name,
            name,
            hashlib.sha256(name.encode()).hexdigest(),
            text,
            "generated",
            model_id,
            -1.0,
            len(text),
            0.0,
        )
        for name, text in captions.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_as_table(rows, "r", CAPTIONS_SCHEMA), path)
    return str(path)


@pytest.fixture
def first(tmp_path):
    return write_captions(
        tmp_path / "first.parquet", captions_of(0, [f"a/{n:03d}" for n in range(120)])
    )


@pytest.fixture
def second(tmp_path):
    return write_captions(
        tmp_path / "second.parquet", captions_of(1, [f"b/{n:03d}" for n in range(40)])
    )


def match(tmp_path, run_id, **options):
    asked = {
        "output": str(tmp_path / "root"),
        "run_id": run_id,
        "threshold": 0.85,
        "top_k": 3,
        "encoder": "learned",
    }
    return match_captions.run(MatchOptions(**{**asked, **options}))


def rows(tmp_path, run_id):
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


def assert_same_rows(one, other):
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True, obj=name)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(match_captions, "_CAPTIONS_PER_QUERY_PART", 25)
    monkeypatch.setattr(match_captions, "_CAPTIONS_PER_INDEX_PART", 30)


@pytest.mark.parametrize("top_k", [0, 2, 500])
def test_parts_change_nothing(tmp_path, first, second, monkeypatch, top_k):
    options = {"captions": (first, second), "index": (second, first), "top_k": top_k}
    match(tmp_path, "whole", **options)
    monkeypatch.setattr(match_captions, "_CAPTIONS_PER_QUERY_PART", 25)
    monkeypatch.setattr(match_captions, "_CAPTIONS_PER_INDEX_PART", 30)
    match(tmp_path, "parts", **options)
    whole = rows(tmp_path, "whole")
    assert_same_rows(rows(tmp_path, "parts"), whole)
    assert 20 < (whole["match_summary"].n_above_threshold > 2).sum() < 160
    assert (whole["match_summary"].status == "no_match").sum() > 5


@pytest.mark.parametrize("top_k", [0, 1, 3, 500])
@pytest.mark.parametrize("in_place", [True, False])
def test_an_update_equals_matching_all_anew(tmp_path, first, second, small_parts, top_k, in_place):
    match(tmp_path, "kept", captions=(first,), index=(first,), top_k=top_k)
    earlier = str(tmp_path / "root" / "runs" / "kept")
    before = rows(tmp_path, "kept")

    # some images of the first folder are gone, one has moved, some have other captions; the second folder is new
    left = captions_of(0, [f"a/{n:03d}" for n in range(120)])
    for number in range(0, 30, 3):
        del left[f"a/{number:03d}"]
    left["a/moved"] = left.pop("a/050")
    left.update(captions_of(7, [f"a/{n:03d}" for n in range(60, 70)]))
    write_captions(tmp_path / "first.parquet", left)

    match(tmp_path, "anew", captions=(first, second), index=(first, second), top_k=top_k)
    where = {"output": None, "run_id": None} if in_place else {"run_id": "updated"}
    match(
        tmp_path, **{"run_id": "updated", **where}, captions=(second,), update=earlier, top_k=top_k
    )
    assert_same_rows(rows(tmp_path, "kept" if in_place else "updated"), rows(tmp_path, "anew"))
    if not in_place:
        assert_same_rows(rows(tmp_path, "kept"), before)


def test_updates_go_on_from_updates_and_dropped_tables_are_gone(tmp_path, first, second):
    match(tmp_path, "run", captions=(first,), index=(first,))
    run = str(tmp_path / "root" / "runs" / "run")
    match(tmp_path, None, output=None, captions=(second,), update=run)
    manifest = match(tmp_path, None, output=None, update=run, drop=(first,))
    assert manifest["options"]["captions"] == (second,)
    match(tmp_path, "anew", captions=(second,), index=(second,))
    assert_same_rows(rows(tmp_path, "run"), rows(tmp_path, "anew"))


def test_new_images_join_the_index_only_where_those_of_before_did(tmp_path, first, second):
    match(tmp_path, "run", captions=(first,), index=(second,))
    third = write_captions(tmp_path / "third.parquet", captions_of(2, ["c/1", "c/2"]))
    manifest = match(
        tmp_path, None, output=None, captions=(third,), update=str(tmp_path / "root/runs/run")
    )
    assert manifest["options"]["index"] == (second,)
    match(tmp_path, "anew", captions=(first, third), index=(second,))
    assert_same_rows(rows(tmp_path, "run"), rows(tmp_path, "anew"))


def searched(monkeypatch):
    """Counts the pairs of captions that searches look at."""
    from beam_jobs.match_transforms import SearchPair

    counted = []
    process = SearchPair.process

    def counting(self, pair):
        self._searched.inc = counted.append
        return process(self, pair)

    monkeypatch.setattr(SearchPair, "process", counting)
    return counted


def test_an_update_searches_only_what_is_new(tmp_path, monkeypatch):
    one = write_captions(
        tmp_path / "one.parquet", {f"a{n}": f"dog number {WORDS[n % 18]} {n}" for n in range(90)}
    )
    two = write_captions(
        tmp_path / "two.parquet", {f"b{n}": f"cat number {WORDS[n % 18]} {n}" for n in range(10)}
    )
    match(tmp_path, "run", captions=(one,), index=(one,))
    counted = searched(monkeypatch)
    match(
        tmp_path, None, output=None, captions=(two,), update=str(tmp_path / "root" / "runs" / "run")
    )
    assert sum(counted) == 10 * 100 + 90 * 10


@pytest.mark.parametrize(
    ("change", "line"),
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
def test_what_does_not_fit_the_earlier_run_is_refused(tmp_path, first, change, line):
    match(tmp_path, "run", captions=(first,), index=(first,))
    before = rows(tmp_path, "run")
    options = {"update": str(tmp_path / "root" / "runs" / "run"), **change}
    with pytest.raises(CaptionerError, match=line):
        match(tmp_path, None, output=None, **options)
    assert_same_rows(rows(tmp_path, "run"), before)


def test_two_encoders_are_refused_by_their_fingerprints(tmp_path, first):
    match(tmp_path, "run", captions=(first,), index=(first,))
    run = RunLayout(str(tmp_path / "root"), "run")
    manifest = commits.read_manifest(run.run_dir)
    ours = manifest["encoder"]["fingerprint"]
    storage.write_json(
        run.manifest, {**manifest, "encoder": {"name": "learned", "fingerprint": "learned/other"}}
    )
    with pytest.raises(CaptionerError, match=f"(?s)'learned/other'.*{ours!r}"):
        match(tmp_path, None, output=None, update=run.run_dir)


def test_two_models_are_refused_by_their_fingerprints(tmp_path, first, second):
    write_captions(tmp_path / "second.parquet", captions_of(1, ["b"]), "lstm-2")
    with pytest.raises(CaptionerError, match=r"(?s)'lstm-1'.*'lstm-2'"):
        match(tmp_path, "run", captions=(first,), index=(first, second))


def test_a_run_with_captions_of_its_own_is_not_updated_with_others_in_place(tmp_path, second):
    run = RunLayout(str(tmp_path / "root"), "run")
    own = write_captions(
        tmp_path / "root" / "runs" / "run" / "captions" / "part-00000.parquet",
        captions_of(0, ["a"]),
    )
    own = run.table("captions")
    manifest = commits.new_manifest(run)
    storage.write_json(run.manifest, {**manifest, "stages": {"caption": {"wall_time_s": 1}}})
    match(tmp_path, "run", captions=(own,), index=(own,))
    with pytest.raises(CaptionerError, match="captions of its own"):
        match(tmp_path, None, output=None, captions=(second,), update=run.run_dir)
    match(tmp_path, "both", captions=(second,), update=run.run_dir)
    assert len(rows(tmp_path, "both")["match_summary"]) == 41


def test_a_run_refuses_captions_of_another_model_before_it_captions_anything(
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
    said = capsys.readouterr().err
    assert "'lstm-1'" in said
    assert load_model("pretrained").model_id in said
    assert not (tmp_path / "out").exists()
