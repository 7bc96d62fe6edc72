"""The report shows what is true, runs nothing, and takes pictures only from trusted places."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner_cli.commands.results import report as command
from captioner_core.errors import CaptionerError
from captioner_core.images.image_ids import path_below
from captioner_core.io import storage
from captioner_core.report import pictures, plots, write_report
from captioner_core.report.cards import sample_evenly
from captioner_core.report.pictures import Gallery, ImageFinder, thumbnail
from captioner_core.report.plots import Epoch, ScoreCounts, score_histogram, training_curve
from captioner_core.security.redaction import escape_control_chars
from captioner_core.tables import schemas
from tests.pages import Page
from tests.runs import change_manifest, draw_picture, make_run, write_dataset, write_table

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=http://evil.example/x.png onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }} {% raw %} ${x} &lt;b&gt; </style></svg>",
    "line\nbreak\ttab\x00\x1b[31m\x85",
    "\u202egpj.exe \u2066 \u200f \u2028",
]


@pytest.fixture
def no_plots(monkeypatch):
    """Replaces the plots in tests that do not look at them, because drawing is slow."""
    for name in ("score_histogram", "length_histogram", "training_curve", "reliability_curve"):
        monkeypatch.setattr(plots, name, lambda *_: "")


def page_of(run_dir: str, **options: int) -> Page:
    """Writes a run's report and returns the checked page."""
    page = Page(write_report(run_dir, **options))
    page.check()
    return page


def cards_of(page: Page) -> list[str]:
    """Returns the HTML of each image's card."""
    return page.source.split('<article class="card">')[1:]


def test_report_shows_figures_and_every_section(tmp_path):
    run_dir = make_run(tmp_path, images=12, failures=3)
    page = page_of(run_dir)
    assert len(cards_of(page)) == 12
    figures = dict(re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", page.source))
    assert figures == {
        "images found": "15",
        "captioned": "12",
        "failed": "3",
        "with a match": "75 %",
        "matches": "36",
    }
    chips = dict(re.findall(r"<li><span>([\w ]+)</span>(.*?)</li>", page.source))
    assert chips == {
        "threshold": "0.9",
        "top k": "10",
        "encoder": "spacy-content",
        "model": "lstm-0123456789abcdef",
        "wall time": "13.1 s",
    }
    assert "2026-02-03 04:05 UTC" in page.text
    for fact in ("12.3 s", "2.21.0", "f00d", str(tmp_path / "dataset" / "captions.parquet")):
        assert fact in page.text
    assert page.source.count('<div class="plot">') == 4


def test_report_is_the_only_thing_written_and_the_same_each_time(tmp_path):
    run_dir = make_run(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    uri = write_report(run_dir)
    first = Path(uri).read_bytes()
    assert uri == f"{run_dir}/report/index.html"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {Path(uri)}
    write_report(run_dir)
    assert Path(uri).read_bytes() == first


def test_each_image_has_its_matches_in_rank_order(no_plots, tmp_path):
    run_dir = make_run(tmp_path, images=9, matches_each=6)
    rows = storage.read_table(f"{run_dir}/matches").to_pylist()
    for card in cards_of(page_of(run_dir)):
        image_id = re.findall(r'<bdi class="mono">(.*?)</bdi>', card)[0]
        expected = sorted(
            (row for row in rows if row["query_image_id"] == image_id), key=lambda row: row["rank"]
        )
        strip = card.partition('<ol class="matches"')[2]
        names = re.findall(r'<div class="name"><bdi>(.*?)</bdi>', strip)
        assert names == [row["match_image_id"] for row in expected]
        assert re.findall(r'<span class="rank">(\d+)</span>', strip) == [
            str(row["rank"]) for row in expected
        ]
        assert [
            float(x) for x in re.findall(r"<strong[^>]*>([\d.]+)</strong>", strip)
        ] == pytest.approx([row["score"] for row in expected], abs=1e-3)
        assert re.findall(r'class="badge (human|generated)"', strip) == [
            row["match_source"] for row in expected
        ]
        assert strip.count("badge duplicate") == sum(row["is_duplicate"] for row in expected)
        assert ("no match" in card) == (not expected)


def test_an_image_without_a_match_shows_its_best_score(no_plots, tmp_path):
    page = page_of(make_run(tmp_path, images=4, no_match_every=4))
    (card,) = (card for card in cards_of(page) if "no match" in card)
    assert "<strong>0.899</strong>, short of 0.9" in card  # 0.8996 must not look like 0.900
    assert re.search(r'<p class="soft"><bdi>\w[\w ]+</bdi>', card)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(no_plots, tmp_path, text):
    name = text.replace("/", "_").replace("\x00", "")
    run_dir = make_run(
        tmp_path, ids=[f"{name}.png", "b.png"], captions=[text, text], failures=0, no_match_every=2
    )
    failed = schemas.FailureRow("extract", name, name, text, text)
    write_table(Path(run_dir, "failures"), schemas.FAILURES_SCHEMA, [failed], "r")
    change_manifest(
        run_dir, run_id=text, options={"encoder": text, text: [text]}, versions={text: text}
    )
    page = page_of(run_dir)
    assert escape_control_chars(text) in page.text
    assert escape_control_chars(name) in page.text
    assert page.of("img", class_="pic") or page.of("svg", class_="pic")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200f\u2028\u202e\u2066]", page.source)
    assert "evil.example" not in str(
        [found for _, found in page.elements if "src" in found and "evil" in found["src"]]
    )


@given(st.text(st.characters(exclude_categories=[])))
def test_visible_text_can_be_written_and_hides_nothing(text):
    seen = escape_control_chars(text)
    seen.encode("utf-8")
    assert not re.search(
        "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\ufeff]", seen
    )


def test_plain_text_in_any_script_is_unchanged():
    for text in ("Ein Hund läuft", "שלום", "一只狗", "می‌خواهم", "👩‍👧"):
        assert escape_control_chars(text) == text


def test_each_picture_is_embedded_once(no_plots, tmp_path):
    page = page_of(make_run(tmp_path, images=10, index_images=5, matches_each=4))
    data = re.findall(r"data:image/jpeg;base64,[\w+/=]+", page.source)
    assert len(data) == len(set(data)) <= 15
    assert page.of("use")


def test_thumbnails_keep_proportions_and_size(tmp_path):
    page = page_of(make_run(tmp_path, images=6, index_images=30, matches_each=2))
    shapes = set()
    for found in page.of("img", class_="pic"):
        with Image.open(io.BytesIO(base64.b64decode(found["src"].partition(",")[2]))) as image:
            assert max(image.size) <= pictures.CARD_SIDE
            assert image.size == (int(found["width"]), int(found["height"]))
            shapes.add(round(image.width / image.height, 2))
    assert shapes == {1.0, 1.33, 0.75}


def test_missing_and_broken_pictures_show_a_box(no_plots, tmp_path):
    run_dir = make_run(tmp_path, images=4, no_match_every=0)
    images = sorted((tmp_path / "new").rglob("*.png"))
    images[0].unlink()
    images[1].write_bytes(b"not a picture")
    images[2].unlink()
    os.mkfifo(images[2])  # must not block
    shutil.rmtree(tmp_path / "dataset")
    page = page_of(run_dir)
    assert len(cards_of(page)) == 4
    assert 'aria-label="a brown dog running on grass (picture not available)"' in page.source
    assert sum('class="pic missing"' in card.partition("</div>")[0] for card in cards_of(page)) == 3


def test_many_images_are_sampled_evenly(no_plots, tmp_path):
    run_dir = make_run(tmp_path, images=20)
    page = page_of(run_dir, max_images=5)
    shown = re.findall(r'<bdi class="mono">folder/img-(\d+)\.png', page.source)
    assert shown == ["000", "004", "009", "014", "019"]
    assert "5 of 20 shown" in page.text
    assert "None shown" in page_of(run_dir, max_images=0).text


@given(st.integers(0, 300), st.integers(0, 50))
def test_samples_are_in_order_and_without_repeats(total, limit):
    ids = [f"{n:04d}" for n in range(total)]
    chosen = sample_evenly(ids, limit)
    assert len(chosen) == min(total, limit)
    assert chosen == sorted(set(chosen))
    if limit >= 2 and total:
        assert (chosen[0], chosen[-1]) == (ids[0], ids[-1])


def test_an_empty_run_has_a_report(tmp_path):
    page = page_of(make_run(tmp_path, images=0, failures=0, model=False))
    assert cards_of(page) == []
    for shown in (
        "No images were captioned.",
        "No matches.",
        "None.",
        "No captions.",
        "Not available",
    ):
        assert shown in page.text
    assert '<div class="plot">' not in page.source


def test_a_run_of_one_stage_has_a_report(tmp_path):
    run_dir = make_run(tmp_path, images=3)
    shutil.rmtree(Path(run_dir, "matches"))
    shutil.rmtree(Path(run_dir, "match_summary"))
    manifest = json.loads(Path(run_dir, "manifest.json").read_text())
    del (
        manifest["stages"]["match"],
        manifest["counts"]["matches"],
        manifest["counts"]["match_summary"],
    )
    Path(run_dir, "manifest.json").write_text(json.dumps(manifest))
    page = page_of(run_dir)
    assert page.text.count("This run was not matched.") == 4

    matched = tmp_path / "matched-only"
    shutil.copytree(make_run(tmp_path / "other", images=3), matched)
    shutil.rmtree(matched / "captions")
    manifest = json.loads((matched / "manifest.json").read_text())
    del manifest["stages"]["caption"], manifest["counts"]["captions"], manifest["model"]
    (matched / "manifest.json").write_text(json.dumps(manifest))
    page = page_of(str(matched))
    assert len(cards_of(page)) == 3
    assert "This run did no captioning." in page.text
    assert page.of(
        "img", class_="pic"
    )  # the images are found by the captions table that was matched


@pytest.mark.parametrize("table", ["captions", "matches", "match_summary", "failures"])
def test_incomplete_run_is_refused(tmp_path, table):
    run_dir = make_run(tmp_path)
    shutil.rmtree(Path(run_dir, table))
    with pytest.raises(CaptionerError, match=f"lacks its {table} table"):
        write_report(run_dir)
    Path(run_dir, "manifest.json").unlink()
    with pytest.raises(CaptionerError, match=r"no manifest\.json"):
        write_report(run_dir)
    with pytest.raises(CaptionerError, match=r"no manifest\.json"):
        write_report(str(tmp_path / "nowhere"))
    with pytest.raises(CaptionerError, match="--max-images -1"):
        write_report(run_dir, max_images=-1)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"history": 3}', '{"history": [{"epoch": 1}]}', '{"history": []}']
)
def test_an_invalid_training_history_is_ignored(tmp_path, content):
    run_dir = make_run(tmp_path, images=1)
    (tmp_path / "model" / "metrics.json").write_text(content)
    assert "Not available: the model" in page_of(run_dir).text


def test_confidence_is_shown_where_the_model_was_evaluated(tmp_path):
    run_dir = make_run(tmp_path, images=1)
    assert "Confidence" not in page_of(run_dir).text
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    fifths = [
        {"images": 20, "word_probability": 0.2 + n / 10, "cider": 0.3 + n / 5} for n in range(5)
    ]
    metrics["evaluations"] = [{"split": "dev", "reliability": fifths}]
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(metrics))
    assert "Confidence" in page_of(run_dir).text


def test_self_critical_epochs_have_no_training_loss(tmp_path):
    run_dir = make_run(tmp_path, images=1)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    metrics["history"].append({"epoch": 9, "train_loss": None, "dev_loss": 3.0, "reward": 0.5})
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(metrics))
    assert "Not available: the model" not in page_of(run_dir).text


def test_an_unusual_manifest_is_no_error(no_plots, tmp_path):
    run_dir = make_run(tmp_path, images=2)
    change_manifest(run_dir, options=None, versions=[], stages=3, created_utc="noon", model="m")
    assert "at an unknown time" in page_of(run_dir).text


def test_failures_beyond_the_limit_are_counted(no_plots, tmp_path):
    page = page_of(make_run(tmp_path, images=1, failures=260))
    assert "60 more in the failures table." in page.text
    assert page.text.count("broken/") == 200
    assert "broken/000.jpg" in page.text
    assert "broken/200.jpg" not in page.text


def test_repeated_captions_are_counted(no_plots, tmp_path):
    page = page_of(make_run(tmp_path, images=8, captions=["a dog"] * 7 + ["a cat"]))
    assert "2 distinct for 8 images, 12.5 % of which share theirs with no other" in page.text
    assert "87.5 %" in page.text


@pytest.mark.parametrize(
    "image_id",
    ["../secret.png", "a/../../secret.png", "link.png", "folder/secret.png", "", "a\0.png"],
)
def test_ids_that_leave_the_dataset_are_never_opened(no_plots, tmp_path, monkeypatch, image_id):
    opened: list[object] = []
    run_dir = make_run(
        tmp_path, images=2, no_match_every=0, matches_each=1, ids=["x.png"], captions=["a dog"]
    )
    secret = draw_picture(tmp_path / "outside" / "secret.png", 1)
    shutil.copy(secret, tmp_path / "dataset" / "secret.png")
    (tmp_path / "dataset" / "images" / "link.png").symlink_to(secret)
    (tmp_path / "dataset" / "images" / "folder").symlink_to(secret.parent)
    write_dataset(tmp_path / "dataset", [(image_id, "a dog"), (str(secret), "a dog")])
    match = storage.read_table(f"{run_dir}/matches").to_pylist()[0]
    rows = [
        schemas.MatchRow(
            **{name: match[name] for name in schemas.MatchRow.__slots__}
            | {"match_image_id": i, "rank": n}
        )
        for n, i in enumerate((image_id, str(secret)), start=1)
    ]
    shutil.rmtree(Path(run_dir, "matches"))
    write_table(Path(run_dir, "matches"), schemas.MATCHES_SCHEMA, rows, "r")
    open_file = os.open

    def refuse_pictures(path, *arguments, **keywords):
        if isinstance(path, bytes):
            opened.append(path)
            raise OSError("not now")
        return open_file(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refuse_pictures)
    page = page_of(run_dir)
    assert opened == [os.fsencode(tmp_path / "new" / "x.png")]
    assert page.source.count('class="pic missing"') == 3


def test_ids_below_the_dataset_are_found(tmp_path):
    images = tmp_path / "images"
    inside = draw_picture(images / "a" / "b.png", 1)
    (images / "again.png").symlink_to(inside)
    assert path_below(images, "a/b.png") == os.fsencode(inside)
    assert path_below(images, "again.png") == os.fsencode(inside)
    assert path_below(images, "/etc/passwd") is None
    assert path_below(images, ".") is None


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_index_tables_of_other_writers_are_read(tmp_path, kind):
    picture = draw_picture(tmp_path / "images" / "a.png", 1)
    table = pa.table(
        {"image_id": pa.array(["a.png", "b.png"]).cast(kind), "caption": ["a dog", "a cat"]}
    )
    pq.write_table(table, tmp_path / "captions.parquet")
    finder = ImageFinder(
        [str(tmp_path / "missing"), str(tmp_path / "captions.parquet")], ["a.png"], []
    )
    assert (
        finder.location("a.png", "a dog")
        == finder.location("a.png", "other")
        == os.fsencode(picture)
    )
    assert finder.captions("a.png") == ["a dog"]
    assert finder.location("b.png") is None


def test_remote_pictures_are_read_only_from_the_users_hosts(tmp_path):
    uris = {
        "mine.jpg": "gs://mine/new/a.jpg",
        "theirs.jpg": "gs://theirs/a.jpg",
        "evil.jpg": "http://evil.example/a.jpg",
    }
    columns = {"image_id": list(uris), "caption": ["a dog"] * 3, "image_uri": list(uris.values())}
    table = tmp_path / "captions" / "part-00000.parquet"
    table.parent.mkdir()
    pq.write_table(pa.table(columns), table)
    finder = ImageFinder([str(table.parent)], uris, ["gs://mine/out/runs/r"])
    assert [finder.location(image_id) for image_id in uris] == ["gs://mine/new/a.jpg", None, None]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", suffix) for suffix in ("jpg", "webp", "bmp", "tiff", "avif", "jp2", "ppm")),
        *((mode, "png") for mode in ("RGBA", "LA", "L", "P", "1", "I;16")),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("F", "tiff"),
    ],
)
def test_every_kind_of_picture_has_a_thumbnail(tmp_path, mode, suffix):
    path = tmp_path / f"picture.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((300, 600), 65535, np.uint16)).save(path)
    else:
        Image.new(mode, (600, 300)).save(path)
    made = thumbnail(str(path), 160)
    assert made is not None
    jpeg, size = made
    assert size == (160, 80)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.mode, image.format) == ("RGB", "JPEG")
        light = np.asarray(image)[5, 5]
    if mode in ("RGBA", "LA", "I;16"):  # see-through on white; full white
        assert light.min() > 250


def test_a_thumbnail_is_upright_and_without_metadata(tmp_path):
    image = Image.new("RGB", (400, 200), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "secret place"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment")
    made = thumbnail(os.fsencode(tmp_path / "a.jpg"), 100)
    assert made is not None
    jpeg, size = made
    assert size == (50, 100)
    assert b"secret" not in jpeg


def test_formats_not_listed_are_not_opened(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, "ICO")
    assert thumbnail(str(path), 100) is None
    assert thumbnail(str(tmp_path), 100) is None
    assert thumbnail("a\0b", 100) is None


def test_a_shared_picture_has_the_largest_requested_size(tmp_path):
    path = str(draw_picture(tmp_path / "a.png", 0))
    gallery = Gallery()
    first = gallery.show(path, 100)
    assert gallery.show(path, 200) is first
    nothing = gallery.show(None, 100)
    assert gallery.load() == [first]
    assert first.width == 200
    assert not nothing.data_uri


def test_plots_contain_only_shapes_and_numbers():
    counts = ScoreCounts()
    counts.add(np.array([0.9, 0.95, 1.0, -1.0, np.nan, np.inf], np.float32))
    assert counts.total == 4
    for svg in (score_histogram(counts, 0.9, "matches"), training_curve([Epoch(1, 3.0, 3.1)])):
        assert svg.startswith("<svg")
        assert "http" not in svg
        assert "<style" not in svg
        assert "#0102" not in svg
        assert "var(--accent)" in svg


def test_a_score_on_the_threshold_counts_as_reaching_it():
    counts = ScoreCounts()
    counts.add(np.array([0.9], np.float32))
    assert np.flatnonzero(counts.bins).tolist() == [1900]


def test_the_command_writes_a_report(tmp_path, capsys):
    run_dir = make_run(tmp_path, images=2)
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    arguments = parser.parse_args(["report", run_dir, "--max-images", "1"])
    assert arguments.handler(arguments) == 0
    assert capsys.readouterr().out == f"{run_dir}/report/index.html\n"


def test_importing_the_report_draws_nothing():
    heavy = "{'matplotlib', 'tensorflow', 'apache_beam'}"
    code = f"import sys, captioner_core.report; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
