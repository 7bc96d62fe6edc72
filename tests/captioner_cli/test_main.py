"""Help, versions and errors of every subcommand of captioner.

Whatever cannot be done is refused with one line and exit code 2, before any work starts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner_cli.main import COMMANDS, main
from tests.runs import make_run

SUBCOMMANDS = [[name.rpartition(".")[2].replace("_", "-")] for name in COMMANDS]
DATASETS = [["dataset", kind] for kind in ("sample", "flickr8k", "coco", "csv")]


def exit_code(argv):
    """Returns the exit code of a command, also if argparse ends it."""
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("command", [[], *SUBCOMMANDS, *DATASETS], ids=" ".join)
def test_every_command_has_help(command, capsys):
    assert exit_code([*command, "--help"]) == 0
    assert "usage: captioner" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out.strip()


OPTIONS = {
    "extract": ["--images", "in", "--output", "out"],
    "train": ["--dataset", "in", "--features", "f", "--output", "out"],
    "evaluate": ["--model", "m", "--dataset", "in"],
    "caption": ["--images", "in", "--model", "m", "--output", "out"],
    "match": ["--captions", "c", "--index", "i", "--output", "out"],
    "run": ["--images", "in", "--model", "m", "--output", "out"],
    "run-local": ["--out", "out"],
}
BAD_USAGE = [
    [],
    ["no-such-command"],
    ["dataset"],
    ["verify"],
    ["verify", "nowhere"],
    ["report", "nowhere"],
    ["dataset", "sample", "--output", "out", "--images", "3"],
    ["dataset", "sample", "--output", "out", "--images", "many"],
    ["dataset", "sample", "--output", "out", "--seed", "-1"],
    ["dataset", "flickr8k", "--output", "out", "--source", "nowhere"],
    ["dataset", "flickr8k", "--output", "out", "--source", "nowhere", "--limit", "0"],
    ["dataset", "csv", "--output", "out", "--csv", "nowhere.csv", "--images", "nowhere"],
    [
        "dataset",
        "coco",
        "--output",
        "out",
        "--annotations",
        "train=nowhere.json",
        "--images",
        "nowhere",
    ],
    [
        "dataset",
        "coco",
        "--output",
        "out",
        "--annotations",
        "other=nowhere.json",
        "--images",
        "nowhere",
    ],
    # The inputs do not exist.
    *([command, *options] for command, options in OPTIONS.items() if command != "run-local"),
    *([command, *options, "--no-such-option=1"] for command, options in OPTIONS.items()),
    *(
        [command, *options, "--batch-size", "0"]
        for command, options in OPTIONS.items()
        if command not in ("evaluate", "match")
    ),
    *(
        [command, *OPTIONS[command], "--run-id", "../up"]
        for command in ("extract", "caption", "match", "run")
    ),
    *(
        [command, *OPTIONS[command], "--threshold", "1.5"]
        for command in ("match", "run", "run-local")
    ),
    *(
        [command, *OPTIONS[command], "--threshold", "nan"]
        for command in ("match", "run", "run-local")
    ),
    *([command, *OPTIONS[command], "--top-k", "-1"] for command in ("match", "run", "run-local")),
    *(
        [command, *OPTIONS[command], "--encoder", "none"]
        for command in ("match", "run", "run-local")
    ),
    *(
        [command, *OPTIONS[command], "--max-failures", "-1"]
        for command in ("extract", "caption", "run", "run-local")
    ),
    *(
        [command, *OPTIONS[command], "--beam-width", "0"]
        for command in ("caption", "run", "train", "evaluate")
    ),
    ["train", *OPTIONS["train"], "--epochs", "0"],
    ["train", *OPTIONS["train"], "--learning-rate", "inf"],
    ["train", *OPTIONS["train"], "--units", "20.5"],
    ["match", "--captions", "c", "--output", "out"],
    ["run-local", "--out", "out", "--limit", "0"],
    ["run-local", "--out", "out", "--limit", "7"],
    ["run-local", "--out", "out", "--workers", "0"],
    ["train", *OPTIONS["train"], "--dropout", "1"],
    ["train", *OPTIONS["train"], "--samples", "1"],
    ["train", *OPTIONS["train"], "--reinforce-epochs", "-1"],
    ["run-local", "--out", "out", "--epochs", "0"],
    ["run-local", "--out", "out", "--images", "nowhere"],
    ["run-local", "--out", "out", "--dataset", "nowhere"],
    ["run-local", "--out", "out", "--dataset", "flickr8k", "--flickr8k-dir", "nowhere"],
    ["run-local", "--out", ""],
    ["gate", "--models", "nowhere", "--model", "m"],
    ["gate", "--models", "nowhere", "--model", "m", "--margin", "2"],
    ["promote", "--models", "nowhere", "--model", "m"],
    ["promote", "--models", "nowhere"],
    ["models", "nowhere"],
    ["inbox", "--inbox", "nowhere", "--output", "out"],
]


@pytest.mark.parametrize("argv", BAD_USAGE, ids=" ".join)
def test_bad_usage_is_one_line_and_exit_2_before_work_starts(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code(argv) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("assets: ")
    ]
    assert len(lines) == 1, lines
    assert "error: " in lines[0]
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("manifest.json"))


def test_an_error_states_value_rule_and_remedy(capsys):
    exit_code(["match", *OPTIONS["match"], "--threshold", "1.5"])
    line = capsys.readouterr().err
    assert "--threshold 1.5" in line
    assert "-1 to 1" in line
    assert ";" in line


def test_a_finished_run_can_be_reported_and_verified(tmp_path, capsys):
    run_dir = make_run(tmp_path)
    assert main(["report", run_dir]) == 0
    assert Path(capsys.readouterr().out.strip()) == Path(run_dir, "report", "index.html")
    assert main(["verify", run_dir]) == 0
    manifest = json.loads(Path(run_dir, "manifest.json").read_text())
    manifest["counts"]["captions"] += 1
    Path(run_dir, "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", run_dir]) == 1
    assert "breach: " in capsys.readouterr().out
