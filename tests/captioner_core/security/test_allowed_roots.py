"""Paths and URIs are refused if they contain a secret or lie outside the allowed roots."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.matching.inputs import plan_inputs
from captioner_core.options import (
    CalibrateOptions,
    CaptionOptions,
    ConfidenceOptions,
    EvaluateOptions,
    ExportOptions,
    ExtractOptions,
    GateOptions,
    InboxOptions,
    LocalOptions,
    MatchOptions,
    PromoteOptions,
    RunOptions,
    SimilarOptions,
    ThresholdsOptions,
    TrainEncoderOptions,
    TrainOptions,
)
from captioner_core.report.pictures import ImageFinder, thumbnail
from captioner_core.security.allowed_roots import ROOTS, check_uri, is_allowed
from captioner_core.security.redaction import has_secret, redact_arguments, redact_uri
from tests.fakes import HashedWords
from tests.processes import exit_code
from tests.runs import change_manifest, draw_picture, make_run

OPTIONS = [
    ExtractOptions,
    CaptionOptions,
    MatchOptions,
    RunOptions,
    TrainOptions,
    TrainEncoderOptions,
    GateOptions,
    PromoteOptions,
    InboxOptions,
    CalibrateOptions,
    ConfidenceOptions,
    EvaluateOptions,
    ExportOptions,
    LocalOptions,
    SimilarOptions,
    ThresholdsOptions,
]
NOT_PATHS = {"run_id", "collection", "exclude", "failed_for", "index_splits", "split", "marker"}
PATH_OPTIONS = [
    (options, field.name)
    for options in OPTIONS
    for field in dataclasses.fields(options)
    if "str" in str(field.type) and not field.metadata["choices"] and field.name not in NOT_PATHS
]
GOOD = {
    "images": "images",
    "output": "out",
    "captions": "captions",
    "index": "index",
    "dataset": "dataset",
    "features": "features",
    "models": "models",
    "model": "./model",
    "inbox": "inbox",
    "encoder": "minilm",
}
SECRETS = [
    "s3://AKIA:hunter2@bucket/x",
    "s3://AKIA:hunter2/more@bucket/x",
    "https://hunter2@host/x",
    "https://host/x?sig=hunter2",
    "abfs://box@host/x?sv=1&SIG=hunter2",
    "s3://bucket/x?access_key=hunter2&region=eu",
    "https://host/x?X-Amz-Signature=hunter2",
    "https://host/x#access_token=hunter2",
    "hdfs://user:hunter2@host:9000/x",
]
PLAIN = [
    "/data/a b@c:d",
    "s3://bucket/a@b/c",
    "s3://bucket/x?region=eu",
    "hdfs://user@host:9000/x",
    "hdfs://[2001:db8::1]:9000/x",
    "abfs://box@account.dfs.core.windows.net/x",
    "C:\\key:value@x",
    "gs://bucket/what?.jpg",
]


def make(options: type, name: str, value: str) -> None:
    """Makes options with this value for one of them, and good values where there is no default."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    values = {**{field: GOOD[field] for field in fields if field in GOOD}, name: value}
    options(
        **{n: (v,) if str(fields[n].type).startswith("tuple") else v for n, v in values.items()}
    )


@pytest.mark.parametrize(
    ("options", "name"), PATH_OPTIONS, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_option_that_is_a_path_is_checked(options, name, tmp_path, monkeypatch):
    """A later option that is not declared as a path would let a user leave the roots."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptionerError) as caught:
        make(options, name, "s3://AKIA:hunter2@bucket/runs/r")
    assert "hunter2" not in str(caught.value)
    assert f"--{name.replace('_', '-')} 's3://***@bucket/runs/r'" in str(caught.value)
    monkeypatch.setenv(ROOTS, str(tmp_path))
    with pytest.raises(
        CaptionerError, match="lies outside the folders that CAPTIONER_ROOTS allows; name one below"
    ):
        make(options, name, "/etc/runs/r")
    if name not in ("drop", "judgements"):  # One needs --update, the other excludes --dataset.
        make(options, name, str(tmp_path / "runs" / "r"))


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_is_refused_and_not_repeated(uri):
    assert has_secret(uri)
    with pytest.raises(CaptionerError, match="contains a password or key") as caught:
        check_uri("--images", uri)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_allowed(uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_what_only_looks_like_a_secret_is_accepted(uri):
    check_uri("--images", uri)
    assert redact_uri(uri) == uri


@pytest.mark.parametrize("uri", SECRETS)
def test_no_command_repeats_a_secret(uri, capsys):
    commands = [
        ["verify", uri],
        ["report", uri],
        ["manifest", uri],
        ["models", uri],
        ["similar", uri],
    ]
    commands.append(["caption", "--images", uri, "--output", "out"])
    commands.append(["dataset", "csv", "--csv", uri, "--images", uri, "--output", uri])
    commands.append(
        ["dataset", "coco", "--annotations", f"train={uri}", "--images", "in", "--output", "out"]
    )
    for command in commands:
        assert exit_code(command) == 2
        out, err = capsys.readouterr()
        assert "hunter2" not in out + err
        assert len(err.splitlines()) == 1, err


def test_an_unknown_option_is_named_without_its_secret(capsys):
    """A typing error in the name of one of Beam's options must not put a key into the log."""
    for command in (["caption", "--images", "in", "--output", "out"], ["verify", "run"]):
        assert main([*command, "--s3_secret_acess_key=hunter2", "--my-token", "hunter2"]) == 2
        err = capsys.readouterr().err
        assert "--s3_secret_acess_key=***" in err
        assert "hunter2" not in err


def test_arguments_are_shown_redact_uris():
    given = [
        "--images=s3://a:hunter2@b/c",
        "--s3_access_key_id=hunter2",
        "--password",
        "hunter2",
        "--sig=hunter2",
        "x",
    ]
    shown = redact_arguments([*given, "--runner=FlinkRunner", "--design=1", "a\x1b[31m\nb"])
    assert shown == (
        "--images=s3://***@b/c --s3_access_key_id=*** --password *** --sig=*** x "
        r"--runner=FlinkRunner --design=1 a\x1b[31m\nb"
    )


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("data", True),
        ("data/a/b", True),
        ("data/../data/a", True),
        ("data/../secret", False),
        ("datax", False),
        ("data/link", False),
        ("data/link/x", False),
        ("data/back", True),
        ("data/a\0", False),
        ("", False),
    ],
)
def test_local_paths_are_judged_by_where_they_lead(tmp_path, monkeypatch, path, allowed):
    for name in ("data", "secret", "datax"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    monkeypatch.setenv(ROOTS, f"\n{tmp_path}/data/,s3://bucket/mine\n")
    monkeypatch.chdir(tmp_path / "data")
    assert is_allowed(f"{tmp_path}/{path}") is allowed
    assert is_allowed(f"file://{tmp_path}/{path}") is allowed
    assert is_allowed(f"FILE://{tmp_path}/{path}") is allowed
    if path:
        assert is_allowed(f"../{path}") is allowed
    assert is_allowed(f"file://{tmp_path}/data/%2e%2e/secret") is False


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://bucket/mine", True),
        ("s3://bucket/mine/", True),
        ("S3://bucket/mine/a%20b", True),
        ("s3://bucket/mine2", False),
        ("s3://bucket", False),
        ("s3://bucket2/mine", False),
        ("gs://bucket/mine", False),
        ("s3://bucket/mine/../other", False),
        ("s3://bucket/other/../mine", False),
        ("s3://bucket/mine/%2e%2e/other", False),
        ("s3://bucket/mine/..%2fother", False),
        ("s3://bucket/mine?endpoint_override=evil.example", False),
        ("s3://bucket/mine#x", False),
        ("s3://bucket/mine..", False),
        ("s3://bucket/mine/a..b", True),
        ("bucket/mine", False),
    ],
)
def test_uris_are_judged_by_their_prefix(tmp_path, monkeypatch, uri, allowed):
    monkeypatch.setenv(ROOTS, f"{tmp_path / 'elsewhere'}\ns3://bucket/mine/")
    assert is_allowed(uri) is allowed


@pytest.mark.parametrize("setting", ["", " \n, ", "data", "/data,..", "~/data"])
def test_a_setting_that_allows_nothing_does_not_allow_everything(monkeypatch, setting):
    monkeypatch.setenv(ROOTS, setting)
    with pytest.raises(CaptionerError, match=ROOTS):
        check_uri("--images", "/data")


def test_names_are_not_checked_as_paths(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOTS, str(tmp_path))
    monkeypatch.chdir("/")
    root = str(tmp_path)
    CaptionOptions(images=root, output=root, model="pretrained")
    GateOptions(models=root, model="m1")
    PromoteOptions(models=root, model="m1")
    LocalOptions(dataset="sample", out=root)
    with pytest.raises(CaptionerError, match="--output 'out' lies outside"):
        RunOptions(images=root)


def test_a_report_shows_no_picture_from_outside(tmp_path, monkeypatch):
    """Tables and manifests may name any picture, and everybody who reads the report sees it."""
    run_dir = make_run(tmp_path, images=2, failures=0)
    picture = draw_picture(tmp_path / "elsewhere" / "a.png", 1)
    assert thumbnail(str(picture), 8) is not None
    monkeypatch.setenv(ROOTS, str(tmp_path / "out"))
    assert thumbnail(str(picture), 8) is None
    index = str(tmp_path / "dataset" / "captions.parquet")
    assert ImageFinder([index], ["000.jpg"], []).location("000.jpg") is None
    change_manifest(run_dir, model={"path": str(tmp_path / "model")})
    assert main(["report", run_dir]) == 0
    page = Path(run_dir, "report", "index.html").read_text()
    assert "data:image/jpeg" not in page
    assert "Not available: the model" in page


def test_an_update_reads_no_table_from_outside(tmp_path, monkeypatch):
    """A user who may write a manifest, which names the tables, must not get at every file."""
    run_dir = make_run(tmp_path, images=2, failures=0)
    decided = {
        "threshold": 0.9,
        "top_k": 10,
        "encoder": "learned",
        "rank_by": "score",
        "index_splits": [],
    }
    options = {**decided, "index": ["/etc"], "captions": ["/etc"]}
    change_manifest(run_dir, encoder={"fingerprint": HashedWords.fingerprint}, options=options)
    monkeypatch.setenv(ROOTS, str(tmp_path / "out"))
    with pytest.raises(CaptionerError, match="table '/etc' lies outside"):
        plan_inputs(MatchOptions(update=run_dir, run_id="other"), HashedWords())
