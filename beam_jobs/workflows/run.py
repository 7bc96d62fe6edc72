"""Captions a folder, matches the captions and writes the report: ``captioner run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from beam_jobs import caption_images, launch, match_captions
from captioner_core.captioning.saved_model import model_id_of
from captioner_core.matching.inputs import check_matching
from captioner_core.matching.loading import check_one_model, models_of
from captioner_core.models.registry import resolve_model
from captioner_core.options import RunOptions
from captioner_core.report import write_report
from captioner_core.runs.commits import Manifest
from captioner_core.runs.image_list import check_any_images
from captioner_core.runs.run_files import check_inputs_apart, check_report, check_run_output
from captioner_core.tables import layout
from captioner_core.weights import preconditions


class RunResult(NamedTuple):
    """What a run has written.

    Args:
      manifest: The run's manifest.
      report: The path or URI of the HTML report.
    """

    manifest: Manifest
    report: str


def resolve_options(options: RunOptions) -> RunOptions:
    """Returns options that name the model folder itself instead of a folder of models.

    It is called before anything is checked, so that the checked model is the one that captions,
    even if another one is promoted meanwhile.
    """
    return dataclasses.replace(options, model=resolve_model(options.model))


def check_inputs(options: RunOptions) -> None:
    """Checks that a run can be written, captioned and matched, before any image is read.

    Args:
      options: Resolved options.

    Raises:
      CaptionerError: Captioner may not write to the run's folder, the images folder is missing or
        has no usable image, the model is missing, or an index table is missing, is no captions
        table or was captioned by another model.
    """
    run = options.layout
    inputs = {"--images": [options.images], "--model": [options.model]}
    own_files = check_run_output(run, inputs)
    check_report(run.run_dir, own_files)
    own_tables = (run.table(layout.CAPTIONS), run.table(layout.FEATURES))
    tables = {"--index": options.index, "--features": options.features}
    check_inputs_apart(run, tables, own_tables)
    check_any_images(options.images, options.exclude, allow_empty=options.allow_empty)
    check_matching(options, options.index, options.features)
    model_id = model_id_of(options.model)
    if models_of(options.index):
        check_one_model(options.index, model_id)


def check_requirements(options: RunOptions, pipeline_args: Sequence[str] = ()) -> None:
    """Fetches or finds what the stages need: weights, the encoder's vectors and packages.

    Raises:
      CaptionerError: Something is missing and cannot be fetched.
    """
    preconditions.check_report()
    preconditions.check_encoder(options.encoder)
    if launch.runs_here(pipeline_args):
        preconditions.check_backbone()


def run(options: RunOptions, pipeline_args: Sequence[str] = ()) -> RunResult:
    """Runs the three stages. The manifest is written when the tables of all stages are there.

    Args:
      options: What to caption and match, and where to write.
      pipeline_args: Options of Beam.

    Raises:
      CaptionerError: Bad input; nothing was written.
    """
    options = resolve_options(options)
    check_inputs(options)
    check_requirements(options, pipeline_args)
    manifest = caption_images.run(options.caption_options(), pipeline_args, complete=False)
    manifest = match_captions.run(options.match_options(), pipeline_args, manifest)
    report = write_report(options.layout.run_dir)
    return RunResult(manifest, report)
