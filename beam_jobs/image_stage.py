"""The part that extracting and captioning have in common: a stage of a run that reads images.

Both list the images, run a pipeline over them, and commit its tables. ``begin_image_stage`` does
the first, ``ImageStage.run`` the rest; a job adds the pipeline and what else the manifest states.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam

from beam_jobs import launch, transforms
from captioner_core.console.progress import progress
from captioner_core.images.listing import PASSED_OVER_BY_SUFFIX, ListingCounts, passed_over_lines
from captioner_core.options import ImageOptions
from captioner_core.runs import commits, failure_policy, identity, image_list
from captioner_core.runs.reuse import Failures, FeatureCache, earlier_images, failures_of
from captioner_core.tables import layout


@dataclasses.dataclass(frozen=True)
class ImageStage:
    """A stage whose images are listed, and whose pipeline has not run yet.

    Args:
      name: ``layout.EXTRACT`` or ``layout.CAPTION``.
      options: The resolved options, as the manifest will state them.
      pipeline_args: Options of Beam.
      run: The layout to stage tables in.
      files: The list of the images.
      counts: What the images folder holds.
      retried: The failures that are tried again while all other rows of the run stay; None if
        the stage replaces the run's tables.
      cache: Results of an earlier run with the same options, by image digest; None if there are
        none.
      started: The time at which the stage began, by ``time.monotonic``.
    """

    name: str
    options: ImageOptions
    pipeline_args: Sequence[str]
    run: layout.RunLayout
    files: Sequence[image_list.ImageListFile]
    counts: ListingCounts
    retried: Failures | None
    cache: FeatureCache | None
    started: float

    def execute(
        self,
        build: Callable[[beam.Pipeline], None],
        *,
        model: commits.ModelRecord | None = None,
        complete: bool = True,
    ) -> commits.Manifest:
        """Runs the pipeline and commits its tables.

        Args:
          build: Adds the steps to a pipeline. They write all tables of the stage.
          model: The model that wrote captions, for the manifest.
          complete: False if more stages follow at once; the run then has no manifest yet.

        Returns:
          The run's manifest.

        Raises:
          CheckFailed: More images failed than the options allow; only if ``complete``.
        """
        with progress(self.name, self.counts.images):
            counters = launch.run_pipeline(build, self.pipeline_args, self.run)
        manifest = commits.commit_stage(
            self.run,
            commits.new_manifest(self.run),
            self.name,
            wall_time_s=time.monotonic() - self.started,
            options=dataclasses.asdict(self.options),
            counts={
                **self.counts.as_manifest(),
                transforms.TAKEN_OVER: self._reused_count(counters),
            },
            adds_to=self._tables_that_stay(),
            metadata=self._metadata(model),
            complete=complete,
        )
        if complete:
            failure_policy.check_failures(
                manifest["counts"][layout.FAILURES], self.options.max_failures
            )
        return manifest

    def _metadata(self, model: commits.ModelRecord | None) -> commits.ManifestMetadata:
        options = self.options
        metadata = commits.ManifestMetadata()
        metadata[identity.COLLECTION] = identity.collection_of_images(
            options.images, options.collection
        )
        if model is not None:
            metadata["model"] = model
        metadata[PASSED_OVER_BY_SUFFIX] = self.counts.by_suffix()
        return metadata

    def _reused_count(self, counters: Mapping[str, int]) -> int:
        """Returns how many images did not go through the network."""
        return self.retried.kept if self.retried else counters.get(transforms.TAKEN_OVER, 0)

    def _tables_that_stay(self) -> tuple[str, ...]:
        """Returns the tables whose rows stay when failures are tried again."""
        if self.retried is None:
            return ()
        return tuple(name for name in layout.STAGE_TABLES[self.name] if name != layout.FAILURES)


def begin_image_stage(
    name: str,
    options: ImageOptions,
    pipeline_args: Sequence[str],
    *,
    decides_rows: Sequence[str],
    decides_reuse: Sequence[str],
    grid: bool = False,
    model_id: str | None = None,
) -> ImageStage:
    """Lists the images of a stage and looks for results that need not be computed again.

    Args:
      name: ``layout.EXTRACT`` or ``layout.CAPTION``.
      options: The resolved options.
      pipeline_args: Options of Beam.
      decides_rows: Names of options, beside those of the network, that must be equal for new rows
        to fit the run's other rows (--only-failures).
      decides_reuse: Names of options, beside those of the network, that must be equal for the
        run's results to be reused.
      grid: Whether reused features need their grid.
      model_id: The captioner, if the stage writes captions.

    Raises:
      CaptionerError: The images folder cannot be read or has no usable image, the run was made
        with other options than --only-failures needs, or captioner may not write to its folder.
    """
    started = time.monotonic()
    retried = failures_of(options, name, also=decides_rows, model_id=model_id)
    begun = image_list.begin_run(options, retried)
    cache = None
    if retried is None:
        cache = earlier_images(options, name, also=decides_reuse, grid=grid, model_id=model_id)
    return ImageStage(
        name=name,
        options=options,
        pipeline_args=pipeline_args,
        run=begun.run,
        files=begun.files,
        counts=begun.counts,
        retried=retried,
        cache=cache,
        started=started,
    )


def print_counts(manifest: commits.Manifest, rows: str, run_dir: str) -> None:
    """Prints how many rows a job wrote, how many images failed, and what was passed over.

    Args:
      manifest: The run's manifest.
      rows: The table that the job writes, such as ``captions``.
      run_dir: The run's folder.
    """
    counts = manifest["counts"]
    print(f"{counts[rows]} {rows}, {counts[layout.FAILURES]} failures in {run_dir}")
    for line in passed_over_lines(manifest):
        print(line)
