"""Captions to tables of similar images.

``python -m beam_jobs.match_captions --captions URI --index URI --output ROOT``
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from beam_jobs import launch
from beam_jobs.transforms import WriteTable
from captioner_core import layout, runs, storage
from captioner_core.matching import CaptionIndex, Query
from captioner_core.options import MatchOptions
from captioner_core.progress import advance, progress
from captioner_core.tables import check_captions_table, features_beside, load_index, read_captions
from captioner_core.text_encoders import load_encoder

SUMMARY = "summary"
_ABOUT = "Captions to tables of similar images."


class MatchQueries(beam.DoFn):
    """Searches an index that each process loads once; images that share their captions come together."""

    def __init__(self, load: Callable[[], CaptionIndex], threshold: float, top_k: int) -> None:
        self._load, self._threshold, self._top_k = load, threshold, top_k
        self._shared = Shared()

    def setup(self) -> None:
        self._index = self._shared.acquire(self._load)

    def process(self, groups: Sequence[tuple[tuple[str, ...], Iterable[str]]]) -> Iterable[Any]:
        queries = [Query(image_id, captions) for captions, image_ids in groups for image_id in image_ids]
        for matches, summary in self._index.search(queries, threshold=self._threshold, top_k=self._top_k):
            yield beam.pvalue.TaggedOutput(SUMMARY, summary)
            yield from matches
        advance(sum(len(query.captions) for query in queries))


def _by_captions(image_id: str, captions: Iterable[str]) -> tuple[tuple[str, ...], str]:
    return tuple(sorted(set(captions))), image_id


def build(pipeline: beam.Pipeline, options: MatchOptions, load: Callable[[], CaptionIndex]) -> None:
    """Read | Group | Match | Write."""
    run = options.layout
    answers = (
        pipeline
        | "ListParts" >> beam.Create(storage.list_parts(options.captions))
        | "ReadCaptions" >> beam.FlatMap(read_captions)
        | "KeyByImage" >> beam.Map(lambda record: (record.image_id, record.caption))
        | "GroupByImage" >> beam.GroupByKey()
        | "KeyByCaptions" >> beam.MapTuple(_by_captions)
        | "GroupByCaptions" >> beam.GroupByKey()  # so that each caption is searched once, however many images have it
        | "Batch" >> beam.BatchElements(min_batch_size=64, max_batch_size=512)
        | "MatchQueries"
        >> beam.ParDo(MatchQueries(load, options.threshold, options.top_k)).with_outputs(SUMMARY, main="matches")
    )
    _ = answers.matches | "WriteMatches" >> WriteTable(run, layout.MATCHES)
    _ = answers[SUMMARY] | "WriteSummary" >> WriteTable(run, layout.MATCH_SUMMARY)


def run(
    options: MatchOptions, pipeline_args: Sequence[str] = (), manifest: runs.Manifest | None = None
) -> runs.Manifest:
    """Matches and commits.

    Args:
      options: what to do.
      pipeline_args: options of Beam's.
      manifest: of the stages of this run that came before, where they have just been done.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: a table is missing or is no captions table, or the encoder's vectors are missing.
    """
    start = time.monotonic()
    run_layout = options.layout
    just_made = {run_layout.table(layout.CAPTIONS)} if manifest else set()
    for uri in {options.captions, *options.index} - just_made:
        check_captions_table(uri)
    encoder = load_encoder(options.encoder)
    if manifest is None:
        manifest = runs.manifest_to_extend(run_layout, options.captions)
    runs.prepare_staging(run_layout)
    beside = [found for table in (options.captions, *options.index) if (found := features_beside(table))]
    load = functools.partial(
        load_index, options.index, options.index_splits, (*beside, *options.features), options.encoder
    )
    with progress("match", sum(map(storage.row_count, storage.list_parts(options.captions))), "captions"):
        launch.run_pipeline(lambda pipeline: build(pipeline, options, load), pipeline_args)
    asked = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("output", "run_id")}
    return runs.commit_stage(
        run_layout,
        manifest,
        layout.MATCH,
        wall_time_s=time.monotonic() - start,
        options=asked,
        facts={"encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint}},
        complete=True,
    )


def main_with(options: MatchOptions, pipeline_args: Sequence[str]) -> int:
    """Runs the job and says what came out."""
    counts = run(options, pipeline_args)["counts"]
    print(f"{counts['matches']} matches of {counts['match_summary']} images in {options.layout.run_dir}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return launch.main("python -m beam_jobs.match_captions", _ABOUT, MatchOptions, main_with, argv)


if __name__ == "__main__":
    sys.exit(main())
