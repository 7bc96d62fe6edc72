"""Captions a folder, matches the captions and writes the report: ``captioner run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from beam_jobs import caption_images, launch, match_captions
from captioner_core.matching import inputs, loading
from captioner_core.models.registry import resolve_model
from captioner_core.options import MatchOptions, RunOptions
from captioner_core.report import write_report
from captioner_core.runs import commits, image_list, run_files
from captioner_core.tables import layout
from captioner_core.weights import preconditions


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run that is resolved and checked, before any image is read.

    Args:
      options: The options of the run, with the model folder itself.
      caption: The resolved caption stage.
      match: The options of the match stage.
      pipeline_args: Options of Beam.
    """

    options: RunOptions
    caption: caption_images.CaptionPlan
    match: MatchOptions
    pipeline_args: Sequence[str]


class RunResult(NamedTuple):
    """The outputs of a run.

    Args:
      manifest: The run's manifest.
      report: The path or URI of the HTML report.
    """

    manifest: commits.Manifest
    report: str


def plan_run(options: RunOptions, pipeline_args: Sequence[str] = ()) -> RunPlan:
    """Resolves the options of a run and checks all that its stages need.

    Everything is resolved and checked here, once; the stages receive the result.

    Args:
      options: What to caption and match, and where to write.
      pipeline_args: Options of Beam.

    Raises:
      CaptionerError: Captioner may not write to the run's folder, the images folder is missing or
        has no usable image, the model is missing, an index table is missing, is no captions table
        or was captioned by another model, or something that a stage needs cannot be fetched.
    """
    launch.check_options(options, pipeline_args)
    # The checked model is the one that captions, even if another one is promoted meanwhile.
    options = dataclasses.replace(options, model=resolve_model(options.model))
    check_inputs(options)
    check_requirements(options)
    caption = caption_images.plan_checked(options.caption_options(), pipeline_args)
    if loading.models_of(options.index):
        loading.check_one_model(options.index, caption.model_id)
    return RunPlan(options, caption, options.match_options(), pipeline_args)


def check_inputs(options: RunOptions) -> None:
    """Checks that a run may be written, and that its images and tables are there.

    Args:
      options: Resolved options.

    Raises:
      CaptionerError: Captioner may not write to the run's folder, the images folder is missing or
        has no usable image, or a table is missing or of another kind.
    """
    run = options.layout
    own_files = run_files.check_run_output(
        run, {"--images": [options.images], "--model": [options.model]}
    )
    run_files.check_report(run.run_dir, own_files)
    own_tables = (run.table(layout.CAPTIONS), run.table(layout.FEATURES))
    tables = {"--index": options.index, "--features": options.features}
    run_files.check_inputs_outside(run, tables, own_tables)
    image_list.check_any_images(options.images, options.exclude, allow_empty=options.allow_empty)
    inputs.check_matching(options, options.index, options.features)


def check_requirements(options: RunOptions) -> None:
    """Fetches or finds what matching and the report need: the encoder's vectors, and packages.

    Raises:
      CaptionerError: Something is missing and cannot be fetched.
    """
    preconditions.check_report()
    preconditions.check_encoder(options.encoder)


def execute_run(plan: RunPlan) -> RunResult:
    """Runs the three stages. The manifest is written when the tables of all stages are there.

    Args:
      plan: The resolved run.

    Raises:
      CaptionerError: The images or a table have changed since the plan was made.
    """
    manifest = caption_images.execute(plan.caption, complete=False)
    manifest = match_captions.execute(plan.match, plan.pipeline_args, manifest)
    return RunResult(manifest, write_report(plan.options.layout.run_dir))
