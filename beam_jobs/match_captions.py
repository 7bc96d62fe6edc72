"""Captions to tables of similar images.

``python -m beam_jobs.match_captions --captions URI --index URI --output ROOT``
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence

import apache_beam as beam

from beam_jobs import launch, preconditions
from beam_jobs.match_transforms import (
    INDEX,
    QUERY,
    SUMMARY,
    EncodeIndex,
    EncodeQueries,
    MakeRows,
    MatchPlan,
    MergeAnswers,
    SearchSets,
)
from beam_jobs.transforms import WriteRows
from captioner_core.console.progress import progress
from captioner_core.io import storage
from captioner_core.matching.inputs import MatchInputs, Unfinished, plan_inputs
from captioner_core.matching.loading import TableSource, features_beside, write_image_facts
from captioner_core.options import COMBINED, MatchOptions
from captioner_core.runs import commits
from captioner_core.runs.identity import COLLECTIONS
from captioner_core.runs.run_files import check_inputs_outside, check_run_output, is_same_location
from captioner_core.tables import layout
from captioner_core.text.encoders import TextEncoder, load_encoder

_ABOUT = "Captions to tables of similar images."
_QUERY_CAPTIONS = 8_192  # asked in one piece of work
_INDEX_CAPTIONS = 131_072  # searched in one piece of work, mapped from a file of some 200 MB


def build(pipeline: beam.Pipeline, run: layout.RunLayout, plan: MatchPlan) -> None:
    """Read | Encode | Search | Merge | Write."""
    index, gone, indexed = pipeline | "EncodeIndex" >> EncodeIndex(plan)
    queries, earlier, groups, asked = pipeline | "EncodeQueries" >> EncodeQueries(plan, gone)
    found = queries | "SearchSets" >> SearchSets(plan, index)
    rows = (
        (found, earlier)
        | "MergeParts" >> beam.Flatten()
        | "MergeAnswers" >> beam.CombinePerKey(MergeAnswers(plan.top_k))
        | "MakeRows" >> beam.ParDo(MakeRows(plan)).with_outputs(SUMMARY, main="matches")
    )
    inputs = (indexed, asked) | "MergeInputs" >> beam.Flatten()
    _ = rows.matches | "WriteMatches" >> WriteRows(run, layout.MATCHES)
    _ = rows[SUMMARY] | "WriteSummary" >> WriteRows(run, layout.MATCH_SUMMARY)
    _ = groups | "WriteGroups" >> WriteRows(run, layout.CAPTION_GROUPS)
    _ = inputs | "WriteInputs" >> WriteRows(run, layout.MATCH_INPUTS)


def run(
    options: MatchOptions,
    pipeline_args: Sequence[str] = (),
    manifest: commits.Manifest | None = None,
) -> commits.Manifest:
    """Matches and commits.

    Args:
      options: what to do.
      pipeline_args: options of Beam's.
      manifest: of the stages of this run that came before, where they have just been done.

    Returns:
      The run's manifest.

    Raises:
      CaptionerError: a table is missing or is no captions table, two models or encoders are mixed, or the
        encoder's vectors are missing.
    """
    launch.check_options(options, pipeline_args)
    preconditions.check_encoder(options.encoder)
    start = time.monotonic()
    run_layout = options.layout
    options = _with_own_names(options)
    check_run_output(run_layout)
    encoder = load_encoder(options.encoder)
    inputs = plan_inputs(
        options, encoder, unfinished=Unfinished(run_layout, manifest) if manifest else None
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
        check_inputs_outside(run_layout, read, own)
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
            COLLECTIONS: sorted(set(inputs.collections.values())),
            "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        },
        complete=True,
    )


def _with_own_names(options: MatchOptions) -> MatchOptions:
    """Returns options in which the run's own tables are named as the run names them.

    A relative and an absolute path of the run's own captions then mean the same: matches are added to the run.
    """
    run = options.layout
    own = [run.table(name) for name in (layout.CAPTIONS, layout.FEATURES)]

    def named(places: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            next((name for name in own if is_same_location(place, name)), place) for place in places
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
    """Writes what all workers read, and says where it is."""
    # every attempt has a folder of its own, since processes keep what they have opened
    folder = layout.join(run.staging, "match")
    facts = layout.join(folder, "facts")
    captions = [
        TableSource(uri, inputs.collections[uri]) for uri in (*inputs.captions, *inputs.index)
    ]
    features = [
        TableSource(found, source.collection)
        for source in captions
        if (found := features_beside(source.uri))
    ]
    features += [TableSource(uri, inputs.collections[uri]) for uri in inputs.features]
    write_image_facts(features, captions, facts, encoder)
    queries, indexed = _row_count(inputs.captions), _row_count(inputs.index)
    return MatchPlan(
        sets=layout.join(folder, "sets"),
        facts=facts,
        encoder=options.encoder,
        threshold=options.threshold,
        top_k=options.top_k,
        combined=options.rank_by == COMBINED,
        captions=inputs.captions,
        index=inputs.index,
        collections=inputs.collections,
        index_splits=options.index_splits,
        parts={QUERY: _parts(queries, _QUERY_CAPTIONS), INDEX: _parts(indexed, _INDEX_CAPTIONS)},
        image_parts=_parts(max(queries, indexed), _INDEX_CAPTIONS),
        earlier=inputs.earlier,
    )


def _parts(rows: int, each: int) -> int:
    return max(1, -(-rows // each))


def _row_count(uris: Iterable[str]) -> int:
    return sum(storage.row_count(part) for uri in uris for part in storage.list_parts(uri))


def main_with(options: MatchOptions, pipeline_args: Sequence[str]) -> int:
    """Runs the job and says what came out."""
    counts = run(options, pipeline_args)["counts"]
    print(
        f"{counts['matches']} matches of {counts['match_summary']} images in {options.layout.run_dir}"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return launch.main("python -m beam_jobs.match_captions", _ABOUT, MatchOptions, main_with, argv)


if __name__ == "__main__":
    sys.exit(main())
