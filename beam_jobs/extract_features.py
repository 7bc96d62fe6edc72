"""Extracts Xception features from a folder of images.

``python -m beam_jobs.extract_features --images DIR --output ROOT``
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import handlers, launch
from beam_jobs.image_stage import ImageStage, begin_image_stage, print_counts
from beam_jobs.transforms import DecodeImages, ReadCached, ReadImageList, WriteTable
from captioner_core.features.base import INPUT_SIZE, Backbone, load_backbone
from captioner_core.features.engines import resolve_engine
from captioner_core.options import ExtractOptions
from captioner_core.runs import commits, reuse, run_files
from captioner_core.tables import layout
from captioner_core.tables.schemas import FEATURES_GRID_SCHEMA, FEATURES_SCHEMA, FeatureRow
from captioner_core.weights import preconditions


def build(
    pipeline: beam.Pipeline,
    options: ExtractOptions,
    stage: ImageStage,
    load: Callable[[], Backbone],
) -> None:
    """Adds the steps to a pipeline: read | decode | infer | write.

    Args:
      pipeline: The pipeline.
      options: The resolved options.
      stage: The listed images, and where the tables are staged.
      load: Makes the backbone in a worker.
    """
    listed, not_listed = pipeline | "ReadImageList" >> ReadImageList(stage.files)
    decoded, cached, not_decoded = listed | "DecodeImages" >> DecodeImages(
        options.images, INPUT_SIZE, options.limits, stage.cache
    )
    features = decoded | "ExtractFeatures" >> RunInference(
        handlers.FeatureHandler(load, batch_size=options.batch_size, grid=options.grid)
    )
    schema = FEATURES_GRID_SCHEMA if options.grid else FEATURES_SCHEMA
    _ = features | "WriteFeatures" >> WriteTable(stage.run, layout.FEATURES, schema)
    if stage.cache:
        reused = cached | "ReadCached" >> ReadCached(stage.cache, _reused_features)
        _ = reused | "WriteReused" >> WriteTable(stage.run, layout.FEATURES, schema, "reused")
    failures = (not_listed, not_decoded) | "MergeFailures" >> beam.Flatten()
    _ = failures | "WriteFailures" >> WriteTable(stage.run, layout.FAILURES)


def _reused_features(features: FeatureRow, cache: reuse.FeatureCache) -> FeatureRow:
    return features


def run(
    options: ExtractOptions,
    pipeline_args: Sequence[str] = (),
    load: Callable[[], Backbone] | None = None,
) -> commits.Manifest:
    """Extracts and commits the features of a folder.

    Args:
      options: What to extract, and where to.
      pipeline_args: Options of Beam.
      load: Makes the backbone in a worker. By default it is loaded by its name.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: The images folder or the weights are missing, or captioner may not write to
        the run's folder.
      CheckFailed: More images failed than the options allow.
    """
    launch.check_options(options, pipeline_args)
    run_files.check_run_output(options.layout, {"--images": [options.images]})
    is_local = launch.runs_here(pipeline_args)
    if load is None and is_local:
        preconditions.check_backbone()
    # The manifest states the engine and the precision that were used, not "auto".
    options = resolve_engine(options, is_local=is_local)
    load = load or functools.partial(
        load_backbone, options.backbone, options.precision, options.engine
    )
    stage = begin_image_stage(
        layout.EXTRACT,
        options,
        pipeline_args,
        decides_rows=("grid",),
        decides_reuse=(),
        grid=options.grid,
    )
    return stage.execute(lambda pipeline: build(pipeline, options, stage, load))


def main_with(options: ExtractOptions, pipeline_args: Sequence[str]) -> None:
    """Runs the job and prints its counts."""
    manifest = run(options, pipeline_args)
    print_counts(manifest, layout.FEATURES, options.layout.run_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns its exit code."""
    return launch.main(
        "python -m beam_jobs.extract_features", __doc__ or "", ExtractOptions, main_with, argv
    )


if __name__ == "__main__":
    sys.exit(main())
