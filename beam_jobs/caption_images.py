"""Captions a folder of images.

``python -m beam_jobs.caption_images --images DIR --model MODEL_DIR --output ROOT``
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs import caption_features, launch
from beam_jobs.handlers import CaptionedImage, CaptionHandler
from beam_jobs.image_stage import ImageStage, begin_image_stage, print_counts
from beam_jobs.transforms import DecodeImages, ReadCached, ReadImageList, WriteTable
from captioner_core.captioning.captioning_models import CaptioningModels, load_models
from captioner_core.captioning.saved_model import load_model
from captioner_core.features.base import INPUT_SIZE
from captioner_core.features.engines import choose_engine, resolve_engine
from captioner_core.models.registry import resolve_model
from captioner_core.options import CaptionOptions
from captioner_core.runs import commits, reuse, run_files
from captioner_core.tables import layout, schemas
from captioner_core.weights import preconditions


def build(
    pipeline: beam.Pipeline,
    options: CaptionOptions,
    stage: ImageStage,
    load: Callable[[], CaptioningModels],
) -> None:
    """Adds the steps to a pipeline: read | decode | infer | write.

    Args:
      pipeline: The pipeline.
      options: The resolved options.
      stage: The listed images, and where the tables are staged.
      load: Makes backbone and captioner in a worker.
    """
    listed, not_listed = pipeline | "ReadImageList" >> ReadImageList(stage.files)
    decoded, cached, not_decoded = listed | "DecodeImages" >> DecodeImages(
        options.images, INPUT_SIZE, options.limits, stage.cache
    )
    captioned = decoded | "CaptionImages" >> RunInference(
        CaptionHandler(load, batch_size=options.batch_size)
    )
    _write(captioned, stage.run, "Captioned")
    if stage.cache:
        reused = cached | "ReadCached" >> ReadCached(stage.cache, _reused_caption)
        _write(reused, stage.run, "Reused")
    failures = (not_listed, not_decoded) | "MergeFailures" >> beam.Flatten()
    _ = failures | "WriteFailures" >> WriteTable(stage.run, layout.FAILURES)


def _write(captioned: beam.PCollection[CaptionedImage], run: layout.RunLayout, label: str) -> None:
    prefix = label.lower()
    captions = captioned | f"{label}Captions" >> beam.Map(lambda image: image.caption)
    features = captioned | f"{label}Features" >> beam.Map(lambda image: image.features)
    _ = captions | f"Write{label}Captions" >> WriteTable(run, layout.CAPTIONS, prefix=prefix)
    _ = features | f"Write{label}Features" >> WriteTable(run, layout.FEATURES, prefix=prefix)


def _reused_caption(features: schemas.FeatureRow, cache: reuse.FeatureCache) -> CaptionedImage:
    """Returns the rows of an image that an earlier run has captioned."""
    caption = cache.caption(features.image_sha256)
    row = reuse.caption_row(caption, features.image_id, features.image_uri, features.image_sha256)
    return CaptionedImage(features, row)


@dataclasses.dataclass(frozen=True)
class CaptionPlan:
    """A caption job that is resolved and checked, before any image is read.

    Args:
      options: The options as the manifest will state them: they name the model folder itself, the
        beam width, the engine and the precision that are used.
      pipeline_args: Options of Beam.
      model_id: The model that writes the captions.
    """

    options: CaptionOptions
    pipeline_args: Sequence[str]
    model_id: str


def plan(
    options: CaptionOptions, pipeline_args: Sequence[str] = (), *, fetches_weights: bool = True
) -> CaptionPlan:
    """Resolves and checks the options of a caption job.

    Args:
      options: What to caption, and where to write.
      pipeline_args: Options of Beam.
      fetches_weights: Whether missing weights of the network are fetched. A job whose networks
        are made otherwise does not need them.

    Raises:
      CaptionerError: Model or weights are missing, a path does not fit the runner, or captioner
        may not write to the run's folder.
    """
    launch.check_options(options, pipeline_args)
    # Resolved once, so that workers and manifest agree even if another model is promoted meanwhile.
    options = dataclasses.replace(options, model=resolve_model(options.model))
    run_files.check_run_output(
        options.layout, {"--images": [options.images], "--model": [options.model]}
    )
    return plan_checked(options, pipeline_args, fetches_weights=fetches_weights)


def plan_checked(
    options: CaptionOptions, pipeline_args: Sequence[str] = (), *, fetches_weights: bool = True
) -> CaptionPlan:
    """Loads what a caption job needs, and returns its plan.

    Args:
      options: Options with the model folder itself, whose paths and output have been checked.
      pipeline_args: Options of Beam.
      fetches_weights: See ``plan``.

    Raises:
      CaptionerError: Model or weights are missing or damaged, or the machine lacks the precision.
    """
    is_local = launch.runs_here(pipeline_args)
    if fetches_weights and is_local and not options.from_features:
        preconditions.check_backbone()
    # A damaged model is refused before any image is read.
    model = load_model(options.model)
    if options.from_features:
        # The precision is that of the features, which are there.
        engine, _ = choose_engine(options.engine)
        options = dataclasses.replace(options, engine=engine)
    else:
        options = resolve_engine(options, is_local=is_local)
    beam_width = options.beam_width or model.config.beam_width
    options = dataclasses.replace(options, beam_width=beam_width)
    return CaptionPlan(options, pipeline_args, model.model_id)


def execute(
    plan: CaptionPlan,
    load: Callable[[], CaptioningModels] | None = None,
    *,
    complete: bool = True,
) -> commits.Manifest:
    """Captions the images of a plan and commits the captions.

    Args:
      plan: The resolved job.
      load: Makes backbone and captioner in a worker. By default they are loaded by their names.
      complete: False if more stages follow at once; the run then has no manifest yet.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: The images folder is missing or has no usable image.
      CheckFailed: More images failed than the options allow; only if ``complete``.
    """
    options = plan.options
    if options.from_features:
        return caption_features.run(options, plan.pipeline_args, complete=complete)
    load = load or functools.partial(
        load_models,
        options.backbone,
        options.model,
        options.beam_width,
        options.precision,
        options.engine,
    )
    stage = begin_image_stage(
        layout.CAPTION,
        options,
        plan.pipeline_args,
        decides_rows=("beam_width",),
        decides_reuse=("beam_width",),
        model_id=plan.model_id,
    )
    return stage.execute(
        lambda pipeline: build(pipeline, options, stage, load),
        model={"path": options.model, "model_id": plan.model_id},
        complete=complete,
    )


def run(
    options: CaptionOptions,
    pipeline_args: Sequence[str] = (),
    load: Callable[[], CaptioningModels] | None = None,
) -> commits.Manifest:
    """Captions a folder and commits the captions: ``plan``, then ``execute``."""
    return execute(plan(options, pipeline_args, fetches_weights=load is None), load)


def main_with(options: CaptionOptions, pipeline_args: Sequence[str]) -> None:
    """Runs the job and prints its counts."""
    manifest = run(options, pipeline_args)
    print_counts(manifest, layout.CAPTIONS, options.layout.run_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns its exit code."""
    return launch.main(
        "python -m beam_jobs.caption_images", __doc__ or "", CaptionOptions, main_with, argv
    )


if __name__ == "__main__":
    sys.exit(main())
