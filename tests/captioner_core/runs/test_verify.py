"""A correct run has no breach; each kind of damage is reported in its own line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.io import storage
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.schemas import TABLE_SCHEMAS
from tests.runs import make_run


@pytest.fixture
def run(tmp_path):
    """Returns the folder of a finished run."""
    return Path(make_run(tmp_path, images=6))


def change(run, table, edit, count=True):
    """Replaces the rows of a table; adapts the manifest's count unless ``count`` is False."""
    rows = storage.read_table(str(run / table)).to_pylist()
    rows = edit(rows) or rows
    for part in (run / table).iterdir():
        part.unlink()
    pq.write_table(
        pa.Table.from_pylist(rows, TABLE_SCHEMAS[table]),
        run / table / "part-00000.parquet",
        compression="zstd",
    )
    if count:
        change_manifest(run, lambda manifest: manifest["counts"].update({table: len(rows)}))


def change_manifest(run, edit):
    """Edits a run's manifest."""
    manifest = json.loads((run / "manifest.json").read_text())
    edit(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))


def swap_ranks(rows):
    """Gives the second match of an image a higher score than the first."""
    first = next(r for r in rows if r["rank"] == 1)
    second = next(
        r for r in rows if r["rank"] == 2 and r["query_image_id"] == first["query_image_id"]
    )
    first.update(score=0.91, rank_score=0.91)
    second.update(score=0.95, rank_score=0.95)


def tie_out_of_order(rows):
    """Gives two matches of an image equal scores, with their ids in the wrong order."""
    first = next(r for r in rows if r["rank"] == 1)
    second = next(
        r for r in rows if r["rank"] == 2 and r["query_image_id"] == first["query_image_id"]
    )
    second.update(score=first["score"], rank_score=first["score"])
    first["match_image_id"] = "zzz.jpg"
    second["match_image_id"] = "aaa.jpg"


BREACHES = {
    "captions: caption is empty": lambda run: change(
        run, "captions", lambda rows: rows[0].update(caption=" ")
    ),
    "log_prob is above 0": lambda run: change(
        run, "captions", lambda rows: rows[0].update(log_prob=0.5)
    ),
    "not a number": lambda run: change(
        run, "captions", lambda rows: rows[0].update(log_prob=float("nan"))
    ),
    "no sha256": lambda run: change(run, "captions", lambda rows: rows[0].update(image_sha256="x")),
    "captions: image twice": lambda run: change(run, "captions", lambda rows: [*rows, rows[0]]),
    "images found, but": lambda run: change(run, "captions", lambda rows: rows[1:]),
    "captions: image also in failures": lambda run: change(
        run,
        "failures",
        lambda rows: rows[0].update(
            image_id=storage.read_table(str(run / "captions"))["image_id"][0].as_py()
        ),
    ),
    "failures: image twice": lambda run: change(run, "failures", lambda rows: [*rows, rows[0]]),
    "manifest.json counts": lambda run: change(run, "matches", lambda rows: rows[1:], count=False),
    "captions: image without match_summary": lambda run: change(
        run, "match_summary", lambda rows: rows[1:]
    ),
    "match_summary: image not captioned": lambda run: change(
        run, "match_summary", lambda rows: [*rows, {**rows[0], "query_image_id": "new.jpg"}]
    ),
    "match_summary: image twice": lambda run: change(
        run, "match_summary", lambda rows: [*rows, rows[0]]
    ),
    "n_written is not its number of matches": lambda run: change(
        run, "matches", lambda rows: rows[1:]
    ),
    "min(n_above_threshold, top_k)": lambda run: change(
        run, "match_summary", lambda rows: [r.update(n_above_threshold=99) for r in rows] and None
    ),
    "status doesn't fit": lambda run: change(
        run, "match_summary", lambda rows: rows[0].update(status="maybe")
    ),
    "not the match of rank 1": lambda run: change(
        run,
        "match_summary",
        lambda rows: [r.update(best_match_image_id="x") for r in rows] and None,
    ),
    "score is below the threshold": lambda run: change(
        run, "matches", lambda rows: rows[-1].update(score=0.5)
    ),
    "score is outside -1 to 1": lambda run: change(
        run, "matches", lambda rows: rows[0].update(score=1.5)
    ),
    "an image matches itself": lambda run: change(
        run,
        "matches",
        lambda rows: rows[0].update(
            match_image_id=rows[0]["query_image_id"], match_collection=rows[0]["query_collection"]
        ),
    ),
    "match image twice": lambda run: change(
        run,
        "matches",
        lambda rows: rows[1].update(
            match_image_id=rows[0]["match_image_id"], match_collection=rows[0]["match_collection"]
        ),
    ),
    "falling score": lambda run: change(run, "matches", swap_ranks),
    "order of match_image_id": lambda run: change(run, "matches", tie_out_of_order),
    "rank_score is not the score": lambda run: change(
        run, "matches", lambda rows: rows[0].update(rank_score=0.2)
    ),
    "n_images or n_captions is below 1": lambda run: change(
        run, "caption_groups", lambda rows: rows[0].update(n_captions=0)
    ),
    "names more images than it counts": lambda run: change(
        run, "caption_groups", lambda rows: rows[0].update(image_ids=["a"] * 99)
    ),
    "but match_summary has": lambda run: change(run, "caption_groups", lambda rows: rows[1:]),
    "query images are not those": lambda run: change(
        run, "match_inputs", lambda rows: [row for row in rows if row["side"] == "index"]
    ),
    "match is not listed": lambda run: change(
        run, "match_inputs", lambda rows: [row for row in rows if row["side"] == "query"]
    ),
    "ranks are not": lambda run: change(run, "matches", lambda rows: rows[0].update(rank=7)),
    "encoder is not": lambda run: change(run, "matches", lambda rows: rows[0].update(encoder="x")),
    "run_id or schema_version": lambda run: change(
        run, "failures", lambda rows: rows[0].update(run_id="x")
    ),
    "left over from interrupted work": lambda run: (run / "_staging").mkdir(),
    "not complete": lambda run: (run / "manifest.json").unlink(),
    "is not JSON": lambda run: (run / "manifest.json").write_text("{"),
    "has no counts": lambda run: change_manifest(run, lambda manifest: manifest.pop("counts")),
    "holds no Parquet": lambda run: [part.unlink() for part in (run / "matches").iterdir()],
    "of another type": lambda run: pq.write_table(
        pa.table({name: ["x"] for name in TABLE_SCHEMAS["failures"].names}),
        run / "failures" / "part-00000.parquet",
    ),
}


def test_a_correct_run_has_no_breach(run, capsys):
    assert verify(str(run)) == []
    assert main(["verify", str(run)]) == 0
    assert "ok: " in capsys.readouterr().out


@pytest.mark.parametrize("line", BREACHES)
def test_each_breach_has_its_line(run, line, capsys):
    BREACHES[line](run)
    breaches = verify(str(run))
    assert any(line in breach for breach in breaches), breaches
    assert main(["verify", str(run)]) == 1
    assert "breach: " in capsys.readouterr().out


def test_a_run_that_does_not_exist_is_bad_usage(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_stages_that_did_not_run_need_no_tables(run):
    change_manifest(run, lambda manifest: manifest["stages"].pop("match"))
    for table in layout.STAGE_TABLES[layout.MATCH]:
        storage.delete(str(run / table))
    assert verify(str(run)) == []
