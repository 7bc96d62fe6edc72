"""Captions the features of a run; the images are not read again.

This is what ``caption_images --from-features`` does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import launch
from beam_jobs.handlers import FeatureCaptionHandler
from beam_jobs.transforms import WriteTable
from captioner_core.captioning.generated_caption import FeatureCaptioner
from captioner_core.captioning.saved_model import load_model
from captioner_core.console.progress import progress
from captioner_core.io import storage
from captioner_core.options import CaptionOptions
from captioner_core.runs import commits
from captioner_core.runs.failure_policy import check_failures
from captioner_core.runs.grid_features import check_grid_features
from captioner_core.runs.reuse import feature_row
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import FeatureRow


class RowGroupRef(NamedTuple):
    """A row group of a Parquet file.

    Args:
      uri: The file.
      group: The number of the row group, from 0.
    """

    uri: str
    group: int


def load_generator(model_dir: str, beam_width: int, engine: str) -> FeatureCaptioner:
    """Loads a captioner. Workers call it once."""
    from captioner_core.captioning.generator import CaptionGenerator

    return CaptionGenerator(load_model(model_dir), beam_width, engine)


def build(
    pipeline: beam.Pipeline,
    run: RunLayout,
    row_groups: Sequence[RowGroupRef],
    batch_size: int,
    load: Callable[[], FeatureCaptioner],
) -> None:
    """Adds the steps to a pipeline: read | infer | write.

    Args:
      pipeline: The pipeline.
      run: The layout to stage the captions in.
      row_groups: The row groups of the features table.
      batch_size: Images in a call of the network.
      load: Makes the captioner in a worker.
    """
    features = (
        pipeline
        | "RowGroups" >> beam.Create(row_groups)
        # Only references cross the shuffle, never features.
        | "Redistribute" >> beam.Reshuffle()
        | "ReadFeatures" >> beam.FlatMap(_read_features)
    )
    captions = features | "CaptionFeatures" >> RunInference(
        FeatureCaptionHandler(load, batch_size=batch_size)
    )
    _ = captions | "WriteCaptions" >> WriteTable(run, layout.CAPTIONS)


def _read_features(row_group: RowGroupRef) -> Iterator[FeatureRow]:
    table = storage.read_row_group(*row_group)
    columns = (table.column(name).to_pylist() for name in ("image_id", "image_uri", "image_sha256"))
    for row, (image_id, image_uri, sha256) in enumerate(zip(*columns, strict=True)):
        yield feature_row(table, row, image_id, image_uri, sha256)


def run(
    options: CaptionOptions, pipeline_args: Sequence[str] = (), *, complete: bool = True
) -> commits.Manifest:
    """Captions the features of a run and commits the captions beside them.

    Args:
      options: The resolved options of the caption job.
      pipeline_args: Options of Beam.
      complete: False if more stages follow at once; the run then has no manifest yet.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: The run has no features to caption, they are of other images, or the model
        does not fit them.
      CheckFailed: More images failed than the options allow; only if ``complete``.
    """
    started = time.monotonic()
    # A damaged model is refused before work starts.
    model = load_model(options.model)
    extracted = check_grid_features(options, model.config.backbone)
    beam_width = options.beam_width or model.config.beam_width
    run_layout = commits.begin_attempt(options.layout)
    row_groups = [
        RowGroupRef(part, group)
        for part in storage.list_parts(run_layout.table(layout.FEATURES))
        for group in range(storage.row_group_count(part))
    ]
    load = functools.partial(load_generator, options.model, beam_width, options.engine)
    with progress("caption", extracted["counts"][layout.FEATURES]):
        launch.run_pipeline(
            lambda pipeline: build(pipeline, run_layout, row_groups, options.batch_size, load),
            pipeline_args,
            run_layout,
        )
    manifest = commits.commit_stage(
        run_layout,
        extracted,
        layout.CAPTION,
        wall_time_s=time.monotonic() - started,
        options={"model": options.model, "beam_width": beam_width, "from_features": True},
        metadata={"model": {"path": options.model, "model_id": model.model_id}},
        tables=(layout.CAPTIONS,),
        complete=complete,
    )
    if complete:
        check_failures(manifest["counts"][layout.FAILURES], options.max_failures)
    return manifest
