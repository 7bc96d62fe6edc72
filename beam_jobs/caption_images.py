"""Images to captions: ``python -m beam_jobs.caption_images --images DIR --model MODEL_DIR --output ROOT``."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import caption_features, launch, preconditions
from beam_jobs.files import ListingFile, begin_with_listing
from beam_jobs.handlers import CaptionedImage, CaptionHandler, CaptioningModels
from beam_jobs.transforms import TAKEN_OVER, DecodeImages, ReadCached, ReadListing, WriteTable
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model
from captioner_core.console.progress import progress
from captioner_core.errors import CaptionerError
from captioner_core.features.base import load_backbone
from captioner_core.images.listing import PASSED_OVER_BY_SUFFIX, passed_over_lines
from captioner_core.models.registry import resolve_model
from captioner_core.options import CaptionOptions
from captioner_core.runs import commits
from captioner_core.runs.identity import COLLECTION, collection_of_images
from captioner_core.runs.reuse import FeatureCache, caption_row, earlier_images, failures_of
from captioner_core.runs.run_files import check_run_output
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import FeatureRow

INPUT_SIZE = 299


def load_models(
    backbone_name: str, model_dir: str, beam_width: int | None, precision: str = "float32"
) -> CaptioningModels:
    """Loads backbone and captioner, in a worker.

    Raises:
      CaptionerError: a folder is missing or damaged, or the model reads another backbone's features.
    """
    model = load_model(model_dir)
    backbone = load_backbone(backbone_name, precision)
    if model.config.backbone != backbone.name:
        raise CaptionerError(
            f"model {model_dir!r} was trained on features of {model.config.backbone!r}, not {backbone.name!r}; "
            "choose the --backbone that it was trained with"
        )
    return CaptioningModels(backbone, CaptionGenerator(model, beam_width))


def build(
    pipeline: beam.Pipeline,
    options: CaptionOptions,
    run: RunLayout,
    listing: Sequence[ListingFile],
    load: Callable[[], CaptioningModels],
    earlier: FeatureCache | None = None,
) -> None:
    """Read | Decode | Infer | Write."""
    listed, not_listed = pipeline | "ReadListing" >> ReadListing(listing)
    decoded, known, not_decoded = listed | "DecodeImages" >> DecodeImages(
        options.images, INPUT_SIZE, options.limits, earlier
    )
    captioned = decoded | "CaptionImages" >> RunInference(
        CaptionHandler(load, batch_size=options.batch_size)
    )
    _write(captioned, run, "Captioned")
    if earlier:
        _write(known | "TakeOver" >> ReadCached(earlier, _captioned), run, "Taken")
    failures = (not_listed, not_decoded) | "MergeFailures" >> beam.Flatten()
    _ = failures | "WriteFailures" >> WriteTable(run, layout.FAILURES)


def _write(captioned: beam.PCollection[CaptionedImage], run: RunLayout, label: str) -> None:
    captions = captioned | f"{label}Captions" >> beam.Map(lambda image: image.caption)
    features = captioned | f"{label}Features" >> beam.Map(lambda image: image.features)
    _ = captions | f"Write{label}Captions" >> WriteTable(run, layout.CAPTIONS, prefix=label.lower())
    _ = features | f"Write{label}Features" >> WriteTable(run, layout.FEATURES, prefix=label.lower())


def _captioned(features: FeatureRow, earlier: FeatureCache) -> CaptionedImage:
    """An image captioned before: the row of captions goes with that of features."""
    known = earlier.caption(features.image_sha256)
    return CaptionedImage(
        features, caption_row(known, features.image_id, features.image_uri, features.image_sha256)
    )


def run(
    options: CaptionOptions,
    pipeline_args: Sequence[str] = (),
    load: Callable[[], CaptioningModels] | None = None,
    *,
    complete: bool = True,
) -> commits.Manifest:
    """Captions and commits a folder.

    Args:
      options: what to do.
      pipeline_args: options of Beam's.
      load: makes backbone and captioner in a worker; by their names where None.
      complete: False where more stages follow at once; the run has no manifest then.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: images, model or weights are not there, or don't fit each other; or captioner may not
        write to the run's folder.
      CheckFailed: more failures than allowed; only where ``complete``.
    """
    launch.check_options(options, pipeline_args)
    # once: workers and the manifest have the model of this moment, whatever is promoted meanwhile
    options = dataclasses.replace(options, model=resolve_model(options.model))
    check_run_output(options.layout, {"--images": [options.images], "--model": [options.model]})
    if load is None and not options.from_features:
        preconditions.check_backbone(pipeline_args)
    if options.from_features:
        return caption_features.run(options, pipeline_args, complete=complete)
    start = time.monotonic()
    model = load_model(options.model)  # a bad model shows before work starts
    # the manifest states the width and the precision that were used
    options = dataclasses.replace(
        options,
        beam_width=options.beam_width or model.config.beam_width,
        precision=launch.chosen_precision(options.precision, pipeline_args),
    )
    decide = ("beam_width",)
    failures = failures_of(options, layout.CAPTION, also=decide, model_id=model.model_id)
    run_layout, listing, counts = begin_with_listing(options, failures)
    load = load or functools.partial(
        load_models, options.backbone, options.model, options.beam_width, options.precision
    )
    earlier = (
        None
        if failures
        else earlier_images(options, layout.CAPTION, also=decide, model_id=model.model_id)
    )
    with progress("caption", counts.images):
        counted = launch.run_pipeline(
            lambda pipeline: build(pipeline, options, run_layout, listing, load, earlier),
            pipeline_args,
            run_layout,
        )
    manifest = commits.commit_stage(
        run_layout,
        commits.new_manifest(run_layout),
        layout.CAPTION,
        wall_time_s=time.monotonic() - start,
        options=dataclasses.asdict(options),
        counts={
            **counts.as_manifest(),
            TAKEN_OVER: failures.kept if failures else counted.get(TAKEN_OVER, 0),
        },
        adds_to=(layout.FEATURES, layout.CAPTIONS) if failures else (),
        metadata={
            COLLECTION: collection_of_images(options.images, options.collection),
            "model": {"path": options.model, "model_id": model.model_id},
            PASSED_OVER_BY_SUFFIX: counts.by_suffix(),
        },
        complete=complete,
    )
    if complete:
        launch.check_failures(manifest["counts"][layout.FAILURES], options.max_failures)
    return manifest


def main_with(options: CaptionOptions, pipeline_args: Sequence[str]) -> int:
    """Runs the job and says what came out."""
    manifest = run(options, pipeline_args)
    counts = manifest["counts"]
    print(
        f"{counts['captions']} captions, {counts['failures']} failures in {options.layout.run_dir}",
        *passed_over_lines(manifest),
        sep="\n",
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return launch.main(
        "python -m beam_jobs.caption_images", __doc__ or "", CaptionOptions, main_with, argv
    )


if __name__ == "__main__":
    sys.exit(main())
