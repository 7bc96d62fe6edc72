"""Paths and options as users write them.

They contain ``~``, ``file:`` URIs, schemes in upper case, or options that are given twice.
"""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

import pytest

from beam_jobs import extract_features
from beam_jobs.launch import check_pipeline_args
from captioner_cli.main import main, make_parser
from captioner_core.console.arguments import OneLineParser
from captioner_core.errors import CaptionerError
from captioner_core.images.listing import list_images
from captioner_core.io import storage
from captioner_core.matching import CaptionIndex, Query, make_records
from captioner_core.options import (
    ExtractOptions,
    InboxOptions,
    MatchOptions,
    RunOptions,
    add_arguments,
    from_namespace,
)
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.inbox import scan_inbox
from captioner_core.runs.verify import verify
from captioner_core.security.allowed_roots import uri_argument
from captioner_core.security.uris import local_path_of, normalize_uri
from captioner_core.tables.schemas import GENERATED, MATCHED, NO_MATCH
from tests.fakes import FakeBackbone, HashedWords
from tests.image_files import encoded, picture
from tests.runs import make_run
from tests.same_tables import rows


def parse(options_class: type, *argv: str) -> Any:
    """Returns the options that a command line gives."""
    parser = OneLineParser(prog="captioner")
    add_arguments(parser, options_class)
    return from_namespace(options_class, parser.parse_args(argv))


def parse_and_get_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Returns the one line with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_known_args(argv)
    assert caught.value.code == 2
    line: str
    (line,) = capsys.readouterr().err.splitlines()
    assert "Traceback" not in line
    return line


# --- Home folders


def test_a_leading_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse(
        RunOptions,
        "--images=~/photos",
        "--output=~",
        "--index",
        "~/a",
        "--index=~/b",
        "--model=~/m",
    )
    home = str(tmp_path)
    assert (options.images, options.output, options.model) == (f"{home}/photos", home, f"{home}/m")
    assert options.index == (f"{home}/a", f"{home}/b")
    assert parse(MatchOptions, "--captions=~/c", "--index=i", "--output=o").captions == (
        f"{home}/c",
    )
    for command in ("verify", "report", "manifest"):
        assert make_parser().parse_args([command, "~/runs/r"]).run_dir == f"{home}/runs/r"
    assert make_parser().parse_args(["models", "~/m"]).models == f"{home}/m"
    csv = make_parser().parse_args(
        ["dataset", "csv", "--output=~/d", "--csv=~/c.csv", "--images=~/i"]
    )
    assert (csv.output, csv.csv, csv.images) == tuple(
        tmp_path / name for name in ("d", "c.csv", "i")
    )


@pytest.mark.parametrize("text", ["a~b", "./~", "/data/~", "s3://bucket/~/x", "no~"])
def test_a_tilde_elsewhere_is_a_character(text):
    assert normalize_uri(text) == text


def test_an_unknown_home_folder_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda text: text)
    with pytest.raises(
        CaptionerError, match="'~/x' begins with the home folder, which is unknown here; write"
    ):
        normalize_uri("~/x")
    assert normalize_uri("~nobody-of-that-name/x") == "~nobody-of-that-name/x"


def test_a_name_is_not_taken_for_a_path():
    assert parse(RunOptions, "--images=in", "--model=pretrained").model == "pretrained"


# --- File URIs


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/photos", "/data/photos"),
        ("FILE:///data/photos", "/data/photos"),
        ("file://localhost/data", "/data"),
        ("file:/data", "/data"),
        ("file:///data/my%20photos%C3%A9", "/data/my photosé"),
        ("file:///data/100%25.jpg", "/data/100%.jpg"),
        ("file:///data/caf%E9", "/data/caf\udce9"),
        ("file:///", "/"),
        ("/data/a%20b", "/data/a%20b"),
    ],
)
def test_a_file_uri_becomes_a_path(uri, path):
    assert normalize_uri(uri) == local_path_of(uri) == path
    assert storage.resolve(uri)[1] == path
    assert not storage.is_remote(uri)


@pytest.mark.parametrize(
    "uri", ["file:photos", "file://photos/day1", "file:./x", "file:", "file://", "file:///a%00b"]
)
def test_a_file_uri_without_an_absolute_path_is_refused_in_one_line(uri, capsys):
    line = parse_and_get_error(capsys, "run", "--images", uri)
    assert "--images" in line
    assert repr(uri) in line
    assert "does not name an absolute path on this machine; write file:///FOLDER" in line
    assert "or the path alone" in line
    with pytest.raises(CaptionerError, match="absolute path"):
        storage.resolve(uri)


def test_a_run_with_file_uris_equals_a_run_with_paths(tmp_path):
    folder = tmp_path / "my photos é"
    for name in ("a b.jpg", "deep/%41.png", "not an image.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(), "PNG") if "not" not in name else b"hello")
    uri = "file://" + quote(str(folder))
    tables = []
    for images, output in (
        (str(folder), str(tmp_path / "1")),
        (uri, "file://localhost" + quote(str(tmp_path / "2"))),
    ):
        options = parse(ExtractOptions, "--images", images, "--output", output)
        extract_features.run(options, load=FakeBackbone)
        assert read_manifest(options.layout.run_dir)["options"]["images"] == str(folder)
        assert verify(f"file://{quote(options.layout.run_dir)}") == []
        tables.append([rows(options.layout.run_dir, name) for name in ("features", "failures")])
    assert repr(tables[0]) == repr(tables[1])
    # Options that no command line has normalized.
    direct = ExtractOptions(images=uri, output=f"file://{quote(str(tmp_path / '3'))}")
    extract_features.run(direct, load=FakeBackbone)
    assert repr([rows(direct.layout.run_dir, name) for name in ("features", "failures")]) == repr(
        tables[0]
    )
    assert [repr(entry) for entry in list_images(uri)] == [
        repr(entry) for entry in list_images(str(folder))
    ]


def test_an_inbox_and_a_run_dir_may_be_file_uris(tmp_path, capsys):
    (tmp_path / "inbox" / "a").mkdir(parents=True)
    (tmp_path / "inbox" / "a" / "a.jpg").touch()
    uri = f"file://{tmp_path}/inbox"
    for inbox in (uri, parse(InboxOptions, f"--inbox={uri}", "--output=o").inbox):
        (found,) = scan_inbox(
            InboxOptions(inbox=inbox, output=str(tmp_path / "out"), quiet_minutes=0)
        )
        assert (found.uri, found.state) == (f"{tmp_path}/inbox/a", "ready")
    run_dir = make_run(tmp_path / "made", failures=0)
    assert main(["verify", f"file://{run_dir}"]) == 0
    assert main(["manifest", f"file://localhost{run_dir}"]) == 0
    capsys.readouterr()


# --- Schemes


def test_a_scheme_may_be_in_upper_case():
    options = parse(RunOptions, "--images=S3://Bucket/Photos", "--output", "GS://bucket/Out")
    assert (options.images, options.output) == ("s3://Bucket/Photos", "gs://bucket/Out")


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("https://host/photos", "download the files and name their folder"),
        ("HTTP://host/photos", "download the files and name their folder"),
        ("https://bucket.s3.eu-west-1.amazonaws.com/a/b", "write s3://bucket/a/b"),
        ("https://s3.amazonaws.com/bucket/a", "write s3://bucket/a"),
        ("https://storage.googleapis.com/bucket/a", "write gs://bucket/a"),
        ("ftp://host/photos", "mount the server's folder and name it"),
        ("sftp://host/photos", "mount the server's folder and name it"),
        ("smb://host/share", "mount the server's folder and name it"),
        ("hdfs://host:9000/photos", "mount the file system and name the folder"),
        ("s3a://bucket/a", "write s3://bucket/a"),
        ("gcs://bucket/a", "write gs://bucket/a"),
    ],
)
def test_an_unsupported_uri_is_refused_with_advice_for_its_scheme(uri, advice, capsys):
    for argv in (["run", "--images", uri], ["run", "--images=in", "--index", uri], ["verify", uri]):
        line = parse_and_get_error(capsys, *argv)
        assert repr(uri) in line
        assert advice in line
        assert "credentials" not in line
    with pytest.raises(CaptionerError) as caught:
        storage.read_table(uri)
    assert advice in str(caught.value)


def test_the_advice_does_not_repeat_a_secret(capsys):
    assert main(["run", "--images", "https://host/x?sig=hunter2"]) == 2
    assert "hunter2" not in capsys.readouterr().err
    assert "hunter2" not in parse_and_get_error(capsys, "verify", "https://hunter2@host/x")


def test_a_dataset_can_only_be_made_in_a_local_folder(capsys):
    line = parse_and_get_error(capsys, "dataset", "sample", "--output", "s3://bucket/data")
    assert "'s3://bucket/data' is no local path" in line


# --- Options that are given twice or abbreviated


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["run", "--images", "a", "--images", "b"],
            "--images is given twice, as 'a' and 'b', and takes one value",
        ),
        (["run", "--images=a", "--images=a"], "--images is given twice, as 'a' and 'a'"),
        (
            ["run", "--images=a", "--threshold=0.9", "--threshold", "0.5"],
            "--threshold is given twice",
        ),
        (["extract", "--images=a", "--grid", "--no-grid"], "--grid and --no-grid are both given"),
        (["dataset", "csv", "--csv=a", "--csv=b"], "--csv is given twice, as 'a' and 'b'"),
        (
            ["report", "r", "--max-images=1", "--max-images=2"],
            "--max-images is given twice, as '1' and '2'",
        ),
        (
            ["run", "--images=s3://k:hunter2@b/x", "--images=b"],
            "--images is given twice, as 's3://***@b/x' and 'b'",
        ),
    ],
)
def test_an_option_with_one_value_cannot_be_given_twice(argv, message, capsys):
    assert message in parse_and_get_error(capsys, *argv)


def test_an_option_with_several_values_can_be_repeated():
    options = parse(
        RunOptions,
        "--images=a",
        "--index=b",
        "--index=c",
        "--exclude=x",
        "--exclude=y",
        "--reuse",
        "--reuse",
    )
    assert (options.index, options.exclude, options.reuse) == (("b", "c"), ("x", "y"), True)
    assert parse(RunOptions, "--images=a") == parse(RunOptions, "--images=a"), (
        "parsing one command line does not change the next"
    )


def test_an_option_of_beam_cannot_be_given_twice(capsys):
    parser = argparse.ArgumentParser(prog="captioner")
    check_pipeline_args(parser, ["--runner=FlinkRunner", "--experiments=a", "--experiments=b"])
    with pytest.raises(SystemExit):
        check_pipeline_args(parser, ["--runner=FlinkRunner", "--runner=SparkRunner"])
    assert "--runner is given twice, as 'FlinkRunner' and 'SparkRunner'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--image", "a"],
        ["run", "--images=a", "--thresh=0.5"],
        ["run", "--images=a", "--runne=FlinkRunner"],
    ],
)
def test_an_abbreviated_option_is_refused(argv, capsys):
    """If a later version adds an option, an abbreviation could silently mean that option."""
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- --top-k 0


def test_top_k_0_writes_no_match_but_still_counts_them(capsys):
    records = make_records(["a", "b"], ["dog", "cat"], [GENERATED] * 2)
    queries = [Query("q", ("dog",)), Query("r", ("red",))]
    matches, summary = CaptionIndex(records, HashedWords()).search(queries, threshold=0.9, top_k=0)
    assert matches.num_rows == 0
    columns = ("query_image_id", "status", "n_above_threshold", "n_written", "best_match_image_id")
    values = [tuple(row[name] for name in columns) for row in summary.to_pylist()]
    assert values[0] == ("q", MATCHED, 1, 0, "a")
    assert values[1][:4] == ("r", NO_MATCH, 0, 0)
    printed = " ".join(help_text(capsys, "match").split())
    assert "with 0 match_summary still counts how many reach the threshold" in printed


def help_text(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """Returns the help of a command."""
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, "--help"])
    return capsys.readouterr().out


def test_uri_arguments_are_normalized_before_they_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert uri_argument("~/a") == str(tmp_path / "a")
    monkeypatch.setenv("CAPTIONER_ROOTS", str(tmp_path / "allowed"))
    assert uri_argument(f"file://{tmp_path}/allowed/a") == str(tmp_path / "allowed" / "a")
    for outside in ("~/a", f"file://{tmp_path}/a", f"file://localhost{tmp_path}/a"):
        with pytest.raises(argparse.ArgumentTypeError, match="lies outside the folders"):
            uri_argument(outside)
