"""``captioner run``: caption, match and report in one go."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from captioner_core.options import RunOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="caption a folder, match it and write the report",
        description=(
            "Captions every image below a folder, matches the captions against the --index tables and against each "
            "other, and writes an HTML report."
        ),
        epilog="Other options go to Beam, such as --runner=FlinkRunner.",
    )
    add_arguments(parser, RunOptions)
    parser.set_defaults(handler=_run, takes_pipeline_options=True)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(RunOptions, namespace)
    if options.check:
        from beam_jobs import preconditions

        check_inputs(with_current_model(options))
        preconditions.check_run(options, namespace.pipeline_args)
        print("ok: options, images folder, model and index")
    elif options.plan:
        from beam_jobs.forecast import forecast
        from captioner_core.console.arguments import seconds_since_start

        options = with_current_model(options)
        check_inputs(options)
        print("\n".join(forecast(options, begun_s=seconds_since_start()).lines()))
    else:
        caption_match_report(options, namespace.pipeline_args)
    return 0


def with_current_model(options: RunOptions) -> RunOptions:
    """Options that name the model itself where a folder of models was given.

    Taken before anything is checked, so that what is checked is what captions.
    """
    from captioner_core.models.registry import resolve_model

    return dataclasses.replace(options, model=resolve_model(options.model))


def check_inputs(options: RunOptions) -> None:
    """Refuses what could not be written, captioned or matched, before any image is looked at.

    Raises:
      CaptionerError: captioner may not write to the run's folder; the images folder is missing or holds no image; the
        model is missing; a table is missing or no captions table, or its captions are by another model.
    """
    from beam_jobs.files import check_any_images
    from captioner_core.captioning.saved_model import model_id_of
    from captioner_core.matching.inputs import check_matching
    from captioner_core.matching.loading import check_one_model, models_of
    from captioner_core.runs.run_files import check_inputs_outside, check_report, check_run_output
    from captioner_core.tables import layout

    run = options.layout
    check_report(
        run.run_dir,
        check_run_output(run, {"--images": [options.images], "--model": [options.model]}),
    )
    own = (run.table(layout.CAPTIONS), run.table(layout.FEATURES))
    check_inputs_outside(run, {"--index": options.index, "--features": options.features}, own)
    check_any_images(options.images, options.exclude, allow_empty=options.allow_empty)
    check_matching(options, options.index, options.features)
    model_id = model_id_of(options.model)
    if models_of(options.index):
        check_one_model(options.index, model_id)


def caption_match_report(options: RunOptions, pipeline_args: Sequence[str] = ()) -> None:
    """Does the three stages; the manifest is written once the tables of all are there.

    Raises:
      CaptionerError: bad input; nothing was written.
      CheckFailed: more failures than allowed; everything was written.
    """
    from beam_jobs import caption_images, match_captions, preconditions
    from beam_jobs.launch import check_failures
    from captioner_core.report import write_report
    from captioner_core.tables import layout

    options = with_current_model(options)
    check_inputs(options)
    preconditions.check_run(options, pipeline_args)
    manifest = caption_images.run(options.caption_options(), pipeline_args, complete=False)
    manifest = match_captions.run(options.match_options(), pipeline_args, manifest)
    report = write_report(options.layout.run_dir)
    print_results(options, manifest, report)
    check_failures(manifest["counts"][layout.FAILURES], options.max_failures)


def print_results(options: RunOptions, manifest: Mapping[str, Any], report: str) -> None:
    """Shows a few rows, names every output path, and says what was passed over."""
    from captioner_core.images.listing import passed_over_lines
    from captioner_core.io import storage
    from captioner_core.tables import layout

    run, counts = options.layout, manifest["counts"]
    matches = storage.read_table(run.table(layout.MATCHES)).slice(0, 5)
    for row in matches.to_pylist():
        query = f"{row['query_image_id']!r} {row['query_caption']!r}"
        match = f"{row['match_image_id']!r} {row['match_caption']!r}"
        is_of_another = row["match_collection"] != row["query_collection"]
        of = f" of {row['match_collection']!r}" if is_of_another else ""
        print(f"{row['score']:.3f}  {query}  ~  {match}{of}")
    for name in layout.TABLES:
        print(f"{name:14} {counts[name]:8}  {run.table(name)}")
    print(f"{'manifest':14} {'':8}  {run.manifest}")
    print(f"{'report':14} {'':8}  {report}", *passed_over_lines(manifest), sep="\n")
