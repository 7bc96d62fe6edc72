"""Images to Xception features: ``python -m beam_jobs.extract_features --images DIR --output ROOT``."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import launch, preconditions
from beam_jobs.files import ListingFile, begin_with_listing
from beam_jobs.handlers import FeatureHandler
from beam_jobs.transforms import TAKEN_OVER, DecodeImages, ReadCached, ReadListing, WriteTable
from captioner_core.console.progress import progress
from captioner_core.features.base import Backbone, load_backbone
from captioner_core.images.listing import PASSED_OVER_BY_SUFFIX, passed_over_lines
from captioner_core.options import ExtractOptions
from captioner_core.runs import commits
from captioner_core.runs.identity import COLLECTION, collection_of_images
from captioner_core.runs.reuse import FeatureCache, earlier_images, failures_of
from captioner_core.runs.run_files import check_run_output
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import FEATURES_GRID_SCHEMA, FEATURES_SCHEMA, FeatureRow

INPUT_SIZE = 299


def build(
    pipeline: beam.Pipeline,
    options: ExtractOptions,
    run: RunLayout,
    listing: Sequence[ListingFile],
    load: Callable[[], Backbone],
    earlier: FeatureCache | None = None,
) -> None:
    """Read | Decode | Infer | Write."""
    listed, not_listed = pipeline | "ReadListing" >> ReadListing(listing)
    decoded, known, not_decoded = listed | "DecodeImages" >> DecodeImages(
        options.images, INPUT_SIZE, options.limits, earlier
    )
    features = decoded | "ExtractFeatures" >> RunInference(
        FeatureHandler(load, batch_size=options.batch_size, grid=options.grid)
    )
    schema = FEATURES_GRID_SCHEMA if options.grid else FEATURES_SCHEMA
    _ = features | "WriteFeatures" >> WriteTable(run, layout.FEATURES, schema)
    if earlier:
        taken = known | "TakeOver" >> ReadCached(earlier, _same)
        _ = taken | "WriteTaken" >> WriteTable(run, layout.FEATURES, schema, "taken")
    failures = (not_listed, not_decoded) | "MergeFailures" >> beam.Flatten()
    _ = failures | "WriteFailures" >> WriteTable(run, layout.FAILURES)


def _same(features: FeatureRow, earlier: FeatureCache) -> FeatureRow:
    return features


def run(
    options: ExtractOptions,
    pipeline_args: Sequence[str] = (),
    load: Callable[[], Backbone] | None = None,
) -> commits.Manifest:
    """Extracts and commits the features of a folder.

    Args:
      options: what to do.
      pipeline_args: options of Beam's.
      load: makes the backbone in a worker; by its name where None.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: the images folder or the weights are not there, or captioner may not write to the run's folder.
      CheckFailed: more failures than allowed.
    """
    launch.check_options(options, pipeline_args)
    check_run_output(options.layout, {"--images": [options.images]})
    if load is None:
        preconditions.check_backbone(pipeline_args)
    start = time.monotonic()
    # the manifest states the precision that was used
    options = dataclasses.replace(
        options, precision=launch.chosen_precision(options.precision, pipeline_args)
    )
    failures = failures_of(options, layout.EXTRACT, also=("grid",))
    run_layout, listing, counts = begin_with_listing(options, failures)
    load = load or functools.partial(load_backbone, options.backbone, options.precision)
    earlier = None if failures else earlier_images(options, layout.EXTRACT, grid=options.grid)
    with progress("extract", counts.images):
        counted = launch.run_pipeline(
            lambda pipeline: build(pipeline, options, run_layout, listing, load, earlier),
            pipeline_args,
            run_layout,
        )
    manifest = commits.commit_stage(
        run_layout,
        commits.new_manifest(run_layout),
        layout.EXTRACT,
        wall_time_s=time.monotonic() - start,
        options=dataclasses.asdict(options),
        counts={
            **counts.as_manifest(),
            TAKEN_OVER: failures.kept if failures else counted.get(TAKEN_OVER, 0),
        },
        adds_to=(layout.FEATURES,) if failures else (),
        metadata={
            COLLECTION: collection_of_images(options.images, options.collection),
            PASSED_OVER_BY_SUFFIX: counts.by_suffix(),
        },
    )
    launch.check_failures(manifest["counts"][layout.FAILURES], options.max_failures)
    return manifest


def main_with(options: ExtractOptions, pipeline_args: Sequence[str]) -> int:
    """Runs the job and says what came out."""
    manifest = run(options, pipeline_args)
    counts = manifest["counts"]
    print(
        f"{counts['features']} features, {counts['failures']} failures in {options.layout.run_dir}",
        *passed_over_lines(manifest),
        sep="\n",
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return launch.main(
        "python -m beam_jobs.extract_features", __doc__ or "", ExtractOptions, main_with, argv
    )


if __name__ == "__main__":
    sys.exit(main())
