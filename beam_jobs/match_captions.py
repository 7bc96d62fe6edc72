"""Matches captions: writes tables of the images whose captions are most similar.

``python -m beam_jobs.match_captions --captions URI --index URI --output ROOT``
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Sequence

import apache_beam as beam

from beam_jobs import launch
from beam_jobs.match_transforms import (
    INDEX,
    QUERY,
    SUMMARY,
    EncodeIndex,
    EncodeQueries,
    MatchPlan,
    MergeResults,
    SearchSets,
    make_rows,
)
from beam_jobs.transforms import WriteRows
from captioner_core.console.progress import progress
from captioner_core.io import storage
from captioner_core.matching.inputs import MatchInputs, RunInProgress, plan_inputs
from captioner_core.matching.loading import TableSource, features_beside, write_image_vectors
from captioner_core.options import COMBINED, MatchOptions
from captioner_core.runs import commits, identity, run_files
from captioner_core.tables import layout
from captioner_core.text.encoders import TextEncoder, load_encoder
from captioner_core.weights import preconditions

# A worker searches the captions of one query part in one index part at a time.
CAPTIONS_PER_QUERY_PART = 8_192
# An index part is mapped from a file of about 200 MB.
CAPTIONS_PER_INDEX_PART = 131_072


def build(pipeline: beam.Pipeline, run: layout.RunLayout, plan: MatchPlan) -> None:
    """Adds the steps to a pipeline: read | encode | search | merge | write.

    Args:
      pipeline: The pipeline.
      run: The layout to stage the tables in.
      plan: What to match, and where the workers find what all of them read.
    """
    index = pipeline | "EncodeIndex" >> EncodeIndex(plan)
    queries = pipeline | "EncodeQueries" >> EncodeQueries(plan, index.removed)
    results = queries.sets | "SearchSets" >> SearchSets(plan, index.sets)
    rows = (
        (results, queries.previous_results)
        | "MergeParts" >> beam.Flatten()
        | "MergeResults" >> beam.CombinePerKey(MergeResults(plan.top_k))
        | "MakeRows" >> beam.FlatMap(make_rows, plan).with_outputs(SUMMARY, main="matches")
    )
    inputs = (index.inputs, queries.inputs) | "MergeInputs" >> beam.Flatten()
    summary = (rows[SUMMARY], queries.uncertain) | "MergeSummary" >> beam.Flatten()
    _ = rows.matches | "WriteMatches" >> WriteRows(run, layout.MATCHES)
    _ = summary | "WriteSummary" >> WriteRows(run, layout.MATCH_SUMMARY)
    _ = queries.groups | "WriteGroups" >> WriteRows(run, layout.CAPTION_GROUPS)
    _ = inputs | "WriteInputs" >> WriteRows(run, layout.MATCH_INPUTS)


def run(options: MatchOptions, pipeline_args: Sequence[str] = ()) -> commits.Manifest:
    """Checks the options, matches captions and commits the matches.

    Args:
      options: What to match, and where to write.
      pipeline_args: Options of Beam.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: A table is missing or is no captions table, two models or encoders are mixed,
        or the encoder's vectors are missing.
    """
    launch.check_options(options, pipeline_args)
    preconditions.check_encoder(options.encoder)
    run_files.check_run_output(options.layout)
    return execute(options, pipeline_args)


def execute(
    options: MatchOptions,
    pipeline_args: Sequence[str] = (),
    manifest: commits.Manifest | None = None,
) -> commits.Manifest:
    """Matches captions and commits the matches.

    Args:
      options: Checked options.
      pipeline_args: Options of Beam.
      manifest: The manifest of this run's earlier stages, if they have just been run.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: A table is missing or is no captions table, or two models or encoders are
        mixed.
    """
    start = time.monotonic()
    run_layout = options.layout
    options = _with_own_names(options)
    encoder = load_encoder(options.encoder)
    inputs = plan_inputs(
        options, encoder, RunInProgress(run_layout, manifest) if manifest else None
    )
    if manifest is None:
        manifest = commits.manifest_to_extend(run_layout, inputs.captions)
        is_kept = bool(manifest["stages"])
        own = (
            (run_layout.table(layout.CAPTIONS), run_layout.table(layout.FEATURES))
            if is_kept
            else ()
        )
        read = {
            "--captions": inputs.captions,
            "--index": inputs.index,
            "--features": inputs.features,
        }
        run_files.check_inputs_outside(run_layout, read, own)
    run_layout = commits.begin_attempt(run_layout)
    plan = _plan(options, inputs, encoder, run_layout)
    with progress("match", _row_count(inputs.captions), "captions"):
        launch.run_pipeline(
            lambda pipeline: build(pipeline, run_layout, plan), pipeline_args, run_layout
        )
    return commits.commit_stage(
        run_layout,
        manifest,
        layout.MATCH,
        wall_time_s=time.monotonic() - start,
        options=inputs.as_manifest(options),
        metadata={
            identity.COLLECTIONS: sorted(set(inputs.collections.values())),
            "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        },
        complete=True,
    )


def _with_own_names(options: MatchOptions) -> MatchOptions:
    """Returns options in which the run's own tables have the names that the run gives them.

    A relative and an absolute path of the run's own captions then mean the same, and matches are
    added to the run.
    """
    run = options.layout
    own = [run.table(name) for name in (layout.CAPTIONS, layout.FEATURES)]

    def named(uris: Iterable[str]) -> tuple[str, ...]:
        """Returns the URIs, with the run's own names for its own tables."""
        return tuple(
            next((name for name in own if run_files.is_same_location(uri, name)), uri)
            for uri in uris
        )

    return dataclasses.replace(
        options,
        captions=named(options.captions),
        index=named(options.index),
        features=named(options.features),
    )


def _plan(
    options: MatchOptions, inputs: MatchInputs, encoder: TextEncoder, run: layout.RunLayout
) -> MatchPlan:
    """Writes what all workers read, and returns the plan that says where it is."""
    # Every attempt has a folder of its own, since worker processes keep what they have opened.
    folder = layout.join(run.staging, "match")
    image_vectors_dir = layout.join(folder, "image_vectors")
    captions = [
        TableSource(uri, inputs.collections[uri]) for uri in (*inputs.captions, *inputs.index)
    ]
    features = [
        TableSource(found, source.collection)
        for source in captions
        if (found := features_beside(source.uri))
    ]
    features += [TableSource(uri, inputs.collections[uri]) for uri in inputs.features]
    write_image_vectors(features, captions, image_vectors_dir, encoder)
    queries = _row_count(inputs.captions)
    indexed = _row_count(inputs.index)
    return MatchPlan(
        sets_dir=layout.join(folder, "sets"),
        image_vectors_dir=image_vectors_dir,
        encoder=options.encoder,
        threshold=options.threshold,
        top_k=options.top_k,
        combined=options.rank_by == COMBINED,
        captions=inputs.captions,
        index=inputs.index,
        collections=inputs.collections,
        index_splits=options.index_splits,
        min_confidence=options.min_confidence,
        n_sets={
            QUERY: _part_count(queries, CAPTIONS_PER_QUERY_PART),
            INDEX: _part_count(indexed, CAPTIONS_PER_INDEX_PART),
        },
        n_image_partitions=_part_count(max(queries, indexed), CAPTIONS_PER_INDEX_PART),
        previous_run=inputs.previous_run,
    )


def _part_count(rows: int, rows_per_part: int) -> int:
    return max(1, math.ceil(rows / rows_per_part))


def _row_count(uris: Iterable[str]) -> int:
    return sum(storage.row_count(part) for uri in uris for part in storage.list_parts(uri))


def main_with(options: MatchOptions, pipeline_args: Sequence[str]) -> None:
    """Runs the job and prints its counts."""
    counts = run(options, pipeline_args)["counts"]
    images = counts[layout.MATCH_SUMMARY]
    print(f"{counts[layout.MATCHES]} matches of {images} images in {options.layout.run_dir}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns its exit code."""
    return launch.main(
        "python -m beam_jobs.match_captions",
        "Matches captions and writes tables of similar images.",
        MatchOptions,
        main_with,
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
