"""Features to captions: what ``caption_images --from-features`` does, without reading an image again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import launch
from beam_jobs.handlers import FeatureCaptionHandler
from beam_jobs.transforms import WriteTable
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import LoadedModel, load_model
from captioner_core.console.progress import progress
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import CaptionOptions
from captioner_core.runs import commits
from captioner_core.runs.identity import collection_of_run
from captioner_core.runs.reuse import feature_row
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import FeatureRow

RowGroupRef = tuple[str, int]
"""A file of a features table, and a row group of it."""


def load_generator(model_dir: str, beam_width: int) -> CaptionGenerator:
    """Loads a captioner, in a worker."""
    return CaptionGenerator(load_model(model_dir), beam_width)


def build(
    pipeline: beam.Pipeline,
    run: RunLayout,
    places: Sequence[RowGroupRef],
    batch_size: int,
    load: Callable[[], CaptionGenerator],
) -> None:
    """Read | Infer | Write."""
    features = (
        pipeline
        | "Places" >> beam.Create(places)
        | "SpreadOut" >> beam.Reshuffle()  # places in the table alone cross it, never features
        | "ReadFeatures" >> beam.FlatMap(_read)
    )
    captions = features | "CaptionFeatures" >> RunInference(
        FeatureCaptionHandler(load, batch_size=batch_size)
    )
    _ = captions | "WriteCaptions" >> WriteTable(run, layout.CAPTIONS)


def _read(place: RowGroupRef) -> Iterator[FeatureRow]:
    table = storage.read_row_group(*place)
    names = zip(
        *(table.column(name).to_pylist() for name in ("image_id", "image_uri", "image_sha256")),
        strict=True,
    )
    for row, (image_id, image_uri, sha256) in enumerate(names):
        yield feature_row(table, row, image_id, image_uri, sha256)


def run(
    options: CaptionOptions, pipeline_args: Sequence[str] = (), *, complete: bool = True
) -> commits.Manifest:
    """Captions what this run's extract stage found, and commits the captions beside its features and failures.

    Args:
      options: what to do.
      pipeline_args: options of Beam's.
      complete: False where more stages follow at once; the run has no manifest then.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: the run has no features to caption, they are of other images, or the model does not fit them.
      CheckFailed: more failures than allowed; only where ``complete``.
    """
    start = time.monotonic()
    model = load_model(options.model)  # a bad model shows before work starts
    extracted = _extracted(options, model)
    beam_width = options.beam_width or model.config.beam_width
    run_layout = commits.begin_attempt(options.layout)
    parts = storage.list_parts(run_layout.table(layout.FEATURES))
    places = [(part, group) for part in parts for group in range(storage.row_group_count(part))]
    load = functools.partial(load_generator, options.model, beam_width)
    with progress("caption", extracted["counts"][layout.FEATURES]):
        launch.run_pipeline(
            lambda pipeline: build(pipeline, run_layout, places, options.batch_size, load),
            pipeline_args,
            run_layout,
        )
    manifest = commits.commit_stage(
        run_layout,
        extracted,
        layout.CAPTION,
        wall_time_s=time.monotonic() - start,
        options={"model": options.model, "beam_width": beam_width, "from_features": True},
        metadata={"model": {"path": options.model, "model_id": model.model_id}},
        tables=(layout.CAPTIONS,),
        complete=complete,
    )
    if complete:
        launch.check_failures(manifest["counts"][layout.FAILURES], options.max_failures)
    return manifest


def _extracted(options: CaptionOptions, model: LoadedModel) -> commits.Manifest:
    """What the run's manifest says of its extract stage."""
    manifest = commits.read_manifest(options.layout.run_dir)
    made = manifest["options"]
    run = f"run {options.layout.run_dir!r}"
    if layout.EXTRACT not in manifest["stages"] or not made.get("grid"):
        raise CaptionerError(
            f"--from-features: {run} has no features with their grid; run extract with the same --run-id first, "
            "or leave the option out"
        )
    if made["images"] != options.images:
        raise CaptionerError(
            f"--from-features: {run} has features of {made['images']!r}, not of --images {options.images!r}; "
            "extract those, or name another --run-id"
        )
    collection = collection_of_run(manifest, options.layout.run_dir)
    if options.collection not in (None, collection):
        raise CaptionerError(
            f"--collection {options.collection!r}: {run} has features of collection {collection!r}; leave the option "
            "out, or extract again with it"
        )
    if found := _backbones(options.layout) - {model.config.backbone}:
        raise CaptionerError(
            f"model {options.model!r} was trained on features of {model.config.backbone!r}, and {run} has those of "
            f"{found.pop()!r}; extract with the --backbone that it was trained with"
        )
    return commits.restrict_manifest(manifest, (layout.EXTRACT,))


def _backbones(run: RunLayout) -> set[str]:
    """What made the features, told by the first of them; nothing did where no image could be used."""
    for part in storage.list_parts(run.table(layout.FEATURES)):
        if storage.row_group_count(part):
            return set(storage.read_row_group(part, 0, ["backbone"]).column(0).to_pylist())
    return set()
