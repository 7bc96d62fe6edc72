"""Which tables a match job reads: those named, or with ``--update`` also those that the earlier run read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.matching.loading import (
    check_captions_table,
    check_features_table,
    check_one_model,
    check_splits,
)
from captioner_core.options import COMBINED, JOINT_ENCODERS, MatchOptions, SimilarityOptions
from captioner_core.runs import commits
from captioner_core.runs.identity import COLLECTION, collection_of_run, collection_of_table
from captioner_core.security.allowed_roots import check_uri
from captioner_core.security.redaction import escape_control_chars
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.text.encoders.base import TextEncoder

_DECIDE_SCORES = ("threshold", "top_k", "encoder", "rank_by", "index_splits")


@dataclass(frozen=True)
class MatchInputs:
    """What is read.

    Args:
      captions: tables whose images are matched.
      index: tables that they are matched against.
      features: features tables beside those of the runs that the captions are of.
      earlier: folder of the run whose answers are kept as far as they hold; None for none.
      collections: the collection of each of these tables, by its URI.
    """

    captions: tuple[str, ...]
    index: tuple[str, ...]
    features: tuple[str, ...]
    earlier: str | None
    collections: Mapping[str, str] = field(default_factory=dict)

    def as_manifest(self, options: MatchOptions) -> dict[str, Any]:
        """The options as a manifest states them: every table that was read, not only those named this time."""
        asked = {
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name not in ("output", "run_id")
        }
        return {**asked, "captions": self.captions, "index": self.index, "features": self.features}


class Unfinished(NamedTuple):
    """A run that has just been captioned and is about to be matched, and the manifest that it will have."""

    layout: RunLayout
    manifest: commits.Manifest


def plan_inputs(
    options: MatchOptions, encoder: TextEncoder, unfinished: Unfinished | None = None
) -> MatchInputs:
    """The tables to read, checked before work starts.

    Args:
      options: of the job.
      encoder: that the options name.
      unfinished: the run whose stages before have just been done; its captions are read though it has no manifest yet.

    Raises:
      CaptionerError: a table is missing or of another kind, two models or encoders are mixed, or the run to
        update was matched otherwise.
    """
    given = MatchInputs(
        _plain(options.captions), _plain(options.index), _plain(options.features), None
    )
    inputs = _updated(options, encoder, given) if options.update else given
    for uri in (
        *inputs.captions,
        *inputs.index,
        *inputs.features,
    ):  # an earlier run's manifest may name others' tables
        check_uri("table", uri)
    just_made = {unfinished.layout.table(layout.CAPTIONS)} if unfinished else set()
    check_matching(options, {*inputs.captions, *inputs.index} - just_made, inputs.features)
    check_one_model((*inputs.captions, *inputs.index))
    collections = {
        uri: collection_of_table(uri) for uri in (*inputs.captions, *inputs.index, *inputs.features)
    }
    if unfinished:
        own = collection_of_run(unfinished.manifest, unfinished.layout.run_dir)
        collections.update(dict.fromkeys(just_made & collections.keys(), own))
    return dataclasses.replace(inputs, collections=collections)


def check_matching(
    options: SimilarityOptions, captions: Iterable[str], features: Iterable[str]
) -> None:
    """Refuses, before work starts, what could not be matched.

    Args:
      options: of the match.
      captions: captions tables, of either side.
      features: features tables.

    Raises:
      CaptionerError: a table is missing or of another kind, a split is not known, or ``--rank-by combined`` is
        asked of an encoder whose space has no place for images.
    """
    if options.rank_by == COMBINED and options.encoder not in JOINT_ENCODERS:
        raise CaptionerError(
            f"--rank-by {COMBINED} needs images and captions in one space, which encoder {options.encoder!r} has not; "
            f"choose --encoder {JOINT_ENCODERS[0]}"
        )
    check_splits(options.index_splits)
    for uri in captions:
        check_captions_table(uri)
    for uri in features:
        check_features_table(uri)


def _updated(options: MatchOptions, encoder: TextEncoder, given: MatchInputs) -> MatchInputs:
    """What the earlier run read, without what is dropped and with what is given."""
    earlier = str(options.update).rstrip("/")
    manifest = commits.read_manifest(earlier)
    if layout.MATCH not in manifest["stages"] or not storage.list_parts(
        layout.join(earlier, layout.MATCH_INPUTS)
    ):
        raise CaptionerError(
            f"--update {earlier!r} is a run without matches to go on from; match without --update"
        )
    before = manifest["options"]
    for name in _DECIDE_SCORES:
        now = getattr(options, name)
        then = tuple(before[name]) if isinstance(before.get(name), list) else before.get(name)
        if now != then:
            raise CaptionerError(
                f"--{name.replace('_', '-')} {now!r} is not that of {earlier!r}, which has {then!r}; "
                "give the same, or match without --update"
            )
    made_by = manifest["encoder"]["fingerprint"]
    if made_by != encoder.fingerprint:
        raise CaptionerError(
            f"--update {earlier!r} was matched with encoder {made_by!r}, and this is {encoder.fingerprint!r}; "
            "scores of two encoders don't compare, match without --update"
        )
    dropped = _plain(options.drop)
    captions, index, features = (
        _plain(before.get(name, ())) for name in ("captions", "index", "features")
    )
    for uri in dropped:
        if uri not in (*captions, *index):
            raise CaptionerError(
                f"--drop {uri!r} is no table that {earlier!r} matched; it has {', '.join(captions)}"
            )
    # new images are matched as those of before: against one another too, where these were
    joining = given.captions if set(captions) <= set(index) else ()
    updated = MatchInputs(
        captions=_plain(uri for uri in (*captions, *given.captions) if uri not in dropped),
        index=_plain(uri for uri in (*index, *given.index, *joining) if uri not in dropped),
        features=_plain((*features, *given.features)),
        earlier=earlier if _names_collections(earlier) else None,
    )
    own = options.layout.table(layout.CAPTIONS)
    if (
        options.layout.run_dir == earlier
        and layout.CAPTION in manifest["stages"]
        and updated.captions != (own,)
    ):
        raise CaptionerError(
            f"--update {earlier!r} has captions of its own, and its tables are of these alone; "
            "name another --run-id for the matches of both"
        )
    return updated


def _names_collections(earlier: str) -> bool:
    """Whether an earlier run's answers can be kept: before collections, it was not told which image a row is of."""
    names = storage.open_table(layout.join(earlier, layout.MATCH_INPUTS)).schema.names
    if COLLECTION in names:
        return True
    print(
        f"match: {escape_control_chars(earlier)!r} was made by an earlier version, whose tables name no collections; "
        "all images are matched anew",
        file=sys.stderr,
    )
    return False


def _plain(uris: Iterable[str]) -> tuple[str, ...]:
    """Each once, folders without a slash at the end."""
    return tuple(dict.fromkeys(uri.rstrip("/") for uri in uris))
