"""Options refuse bad values in one line, and command lines give the same options."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.options import (
    CaptionOptions,
    ExtractOptions,
    GateOptions,
    InboxOptions,
    MatchOptions,
    PromoteOptions,
    RunOptions,
    TrainOptions,
    add_arguments,
    from_namespace,
)
from captioner_core.tables.layout import RunLayout
from captioner_core.training.distributed.launcher import worker_arguments

GOOD: dict[type, dict[str, Any]] = {
    ExtractOptions: {"images": "in", "output": "out"},
    CaptionOptions: {"images": "in", "output": "out", "model": "m"},
    MatchOptions: {"captions": ("c",), "output": "out", "index": ("i",)},
    RunOptions: {"images": "in"},
    TrainOptions: {"dataset": "d", "features": "f", "output": "m"},
    GateOptions: {"models": "d", "model": "m"},
    PromoteOptions: {"models": "d", "model": "m"},
    InboxOptions: {"inbox": "in", "output": "out"},
}


@pytest.mark.parametrize("options_class", GOOD)
def test_defaults_are_accepted(options_class):
    options_class(**GOOD[options_class])


@pytest.mark.parametrize(
    ("options_class", "name", "value"),
    [
        (ExtractOptions, "batch_size", 0),
        (ExtractOptions, "max_pixels", 10**9),
        (ExtractOptions, "max_bytes", 0),
        (ExtractOptions, "max_failures", -1),
        (ExtractOptions, "run_id", "../up"),
        (ExtractOptions, "run_id", ".hidden"),
        (ExtractOptions, "output", ""),
        (CaptionOptions, "beam_width", 0),
        (MatchOptions, "threshold", 1.01),
        (MatchOptions, "threshold", float("nan")),
        (MatchOptions, "top_k", -1),
        (MatchOptions, "encoder", "word2vec"),
        (MatchOptions, "index", ()),
        (RunOptions, "threshold", -2.0),
        (RunOptions, "beam_width", 21),
        (TrainOptions, "beam_width", 0),
        (TrainOptions, "epochs", 0),
        (TrainOptions, "learning_rate", float("inf")),
        (TrainOptions, "units", 12),
        (GateOptions, "margin", 1.01),
        (GateOptions, "margin", float("nan")),
        (PromoteOptions, "model", None),
        (PromoteOptions, "undo", True),
        (InboxOptions, "output", ""),
        (InboxOptions, "marker", "a/b"),
        (InboxOptions, "marker", ".."),
        (InboxOptions, "quiet_minutes", -1.0),
        (InboxOptions, "quiet_minutes", float("inf")),
    ],
)
def test_bad_values_are_refused_in_one_line(options_class, name, value):
    with pytest.raises(CaptionerError) as caught:
        options_class(**{**GOOD[options_class], name: value})
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line, "the line must end with a remedy"


def test_arguments_give_the_same_options():
    parser = argparse.ArgumentParser()
    add_arguments(parser, RunOptions)
    argv = ["--images", "in", "--output", "out", "--model", "m", "--index", "a", "--index", "b"]
    argv += ["--threshold", "-0.5", "--max-failures", "3"]
    options = from_namespace(RunOptions, parser.parse_args(argv))
    assert options == RunOptions(
        images="in",
        output="out",
        model="m",
        index=("a", "b"),
        threshold=-0.5,
        max_failures=3,
    )


@pytest.mark.parametrize("mirrored", [(), ("m",), ("m", "n")])
def test_a_worker_gets_the_options_of_the_launcher(mirrored):
    names = mirrored or ("m",)
    options = TrainOptions(
        dataset=names,
        features=names,
        output="o",
        mirrored=mirrored,
        seed=3,
        dataset_weight=(0.5,) * len(names),
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainOptions)
    assert from_namespace(TrainOptions, parser.parse_args(worker_arguments(options))) == options


def test_a_switch_can_be_turned_off():
    parser = argparse.ArgumentParser()
    add_arguments(parser, ExtractOptions)
    options = from_namespace(
        ExtractOptions, parser.parse_args(["--images", "in", "--output", "out", "--no-grid"])
    )
    assert options.grid is False


def test_a_run_is_matched_against_itself_too():
    options = RunOptions(
        images="in", output="out", model="m", index=("human",), run_id="r", top_k=3
    )
    captions = RunLayout("out", "r").table("captions")
    assert options.match_options() == MatchOptions(
        captions=(captions,), output="out", run_id="r", index=("human", captions), top_k=3
    )


def test_layout_keeps_the_slashes_of_a_uri():
    run = RunLayout("gs://bucket/root/", "r1")
    assert run.table("captions") == "gs://bucket/root/runs/r1/captions"
    assert RunLayout("/", "r1").manifest == "/runs/r1/manifest.json"
