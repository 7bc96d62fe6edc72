"""Decides which tables a match job reads, and checks them before work starts.

These are the tables that the options name. With ``--update`` they are joined by those that the
earlier run read.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.json_text import JsonObject
from captioner_core.matching.loading import (
    check_captions_table,
    check_features_table,
    check_one_model,
    check_splits,
)
from captioner_core.options import COMBINED, JOINT_ENCODERS, MatchOptions, SimilarityOptions
from captioner_core.runs import commits, identity
from captioner_core.security import allowed_roots, redaction
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.text.encoders.base import TextEncoder

_TABLE_OPTIONS = ("index", "features")
_FIXED_OPTIONS = {
    field.name: field.default
    for field in dataclasses.fields(SimilarityOptions)
    if field.name not in _TABLE_OPTIONS
}
"""Options that an update cannot change, since earlier scores and ranks depend on them; and their
defaults, which stand for options that the run's version did not have."""


@dataclasses.dataclass(frozen=True)
class MatchInputs:
    """The tables that a match job reads.

    Args:
      captions: tables whose images are matched.
      index: tables that they are matched against.
      features: features tables, in addition to those of the runs that the captions belong to.
      previous_run: the folder of the run whose results are reused where they still hold, or None.
      collections: the collection of each of these tables, by its URI.
    """

    captions: tuple[str, ...]
    index: tuple[str, ...]
    features: tuple[str, ...]
    previous_run: str | None
    collections: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_manifest(self, options: MatchOptions) -> JsonObject:
        """Returns the options to record in the manifest.

        They list every table that was read, not only those named for this update.
        """
        given = {
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name not in ("output", "run_id")
        }
        return {**given, "captions": self.captions, "index": self.index, "features": self.features}


class RunInProgress(NamedTuple):
    """A run whose images have just been captioned and are about to be matched.

    Args:
      layout: the run's folder.
      manifest: the manifest that it will have; it is not written yet.
    """

    layout: RunLayout
    manifest: commits.Manifest


def plan_inputs(
    options: MatchOptions, encoder: TextEncoder, in_progress: RunInProgress | None = None
) -> MatchInputs:
    """Returns the tables to read, checked before work starts.

    Args:
      options: the options of the job.
      encoder: the encoder that they name.
      in_progress: the run that matching continues. Its captions are read although it has no
        manifest yet.

    Raises:
      CaptionerError: a table is missing or of another kind, two models or encoders are mixed, or
        the run to update was matched with other options.
    """
    inputs = MatchInputs(
        captions=_distinct_uris(options.captions),
        index=_distinct_uris(options.index),
        features=_distinct_uris(options.features),
        previous_run=None,
    )
    if options.update:
        inputs = _updated_inputs(options, encoder, inputs)
    matched = {*inputs.captions, *inputs.index}
    tables = (*inputs.captions, *inputs.index, *inputs.features)
    for uri in tables:
        # The manifest of an earlier run may name tables of other people.
        allowed_roots.check_uri("table", uri)
    own_captions = {in_progress.layout.table(layout.CAPTIONS)} if in_progress else set()
    check_matching(options, matched - own_captions, inputs.features)
    check_one_model((*inputs.captions, *inputs.index))
    collections = {uri: identity.collection_of_table(uri) for uri in tables}
    if in_progress:
        own_collection = identity.collection_of_run(
            in_progress.manifest, in_progress.layout.run_dir
        )
        collections.update(dict.fromkeys(own_captions & collections.keys(), own_collection))
    return dataclasses.replace(inputs, collections=collections)


def check_matching(
    options: SimilarityOptions, captions: Iterable[str], features: Iterable[str]
) -> None:
    """Checks, before work starts, that tables can be matched with these options.

    Args:
      options: the options of the match.
      captions: captions tables, of either side.
      features: features tables.

    Raises:
      CaptionerError: a table is missing or of another kind, a split is not known, or ``--rank-by
        combined`` is used with an encoder that cannot encode images.
    """
    if options.rank_by == COMBINED and options.encoder not in JOINT_ENCODERS:
        raise CaptionerError(
            f"--rank-by {COMBINED} needs an encoder for images and captions, and "
            f"{options.encoder!r} encodes captions only; choose --encoder {JOINT_ENCODERS[0]}"
        )
    check_splits(options.index_splits)
    for uri in captions:
        check_captions_table(uri)
    for uri in features:
        check_features_table(uri)


def _updated_inputs(options: MatchOptions, encoder: TextEncoder, added: MatchInputs) -> MatchInputs:
    """Returns the tables of the run to update, without those dropped, with those added.

    Args:
      options: the options of the job; ``update`` names the run.
      encoder: the encoder that they name.
      added: the tables that the options name.
    """
    run_dir = str(options.update).rstrip("/")
    manifest = commits.read_manifest(run_dir)
    _check_same_options(options, encoder, run_dir, manifest)
    previous = manifest["options"]
    captions = _distinct_uris(previous.get("captions", ()))
    index = _distinct_uris(previous.get("index", ()))
    dropped = _distinct_uris(options.drop)
    for uri in dropped:
        if uri not in (*captions, *index):
            raise CaptionerError(
                f"--drop {uri!r} is no table that {run_dir!r} matched; it has {', '.join(captions)}"
            )
    # If the earlier images were matched with one another, so are the new ones.
    joining = added.captions if set(captions) <= set(index) else ()
    updated = MatchInputs(
        captions=_distinct_uris(uri for uri in (*captions, *added.captions) if uri not in dropped),
        index=_distinct_uris(uri for uri in (*index, *added.index, *joining) if uri not in dropped),
        features=_distinct_uris((*previous.get("features", ()), *added.features)),
        previous_run=run_dir if _has_collections(run_dir) else None,
    )
    own_captions = options.layout.table(layout.CAPTIONS)
    is_in_place = options.layout.run_dir == run_dir
    has_captions = layout.CAPTION in manifest["stages"]
    if is_in_place and has_captions and updated.captions != (own_captions,):
        raise CaptionerError(
            f"--update {run_dir!r} has captions of its own, whose matches its tables hold; "
            "name another --run-id for the matches of both"
        )
    return updated


def _check_same_options(
    options: MatchOptions, encoder: TextEncoder, run_dir: str, manifest: commits.Manifest
) -> None:
    """Checks that a run has matches, and that they can be reused with these options.

    Args:
      options: the options of the job.
      encoder: the encoder that they name.
      run_dir: the run to update.
      manifest: its manifest.
    """
    inputs = layout.join(run_dir, layout.MATCH_INPUTS)
    if layout.MATCH not in manifest["stages"] or not storage.list_parts(inputs):
        raise CaptionerError(
            f"--update {run_dir!r} is a run without matches to update; match without --update"
        )
    for name, default in _FIXED_OPTIONS.items():
        current = getattr(options, name)
        previous = manifest["options"].get(name, default)
        if isinstance(previous, list):
            previous = tuple(previous)
        if current != previous:
            raise CaptionerError(
                f"--{name.replace('_', '-')} {current!r} differs from that of {run_dir!r}, "
                f"which has {previous!r}; give the same, or match without --update"
            )
    fingerprint = manifest["encoder"]["fingerprint"]
    if fingerprint != encoder.fingerprint:
        raise CaptionerError(
            f"--update {run_dir!r} was matched with encoder {fingerprint!r}, and this is "
            f"{encoder.fingerprint!r}; scores of two encoders cannot be compared, match without "
            "--update"
        )


def _has_collections(run_dir: str) -> bool:
    """Returns whether an earlier run's results can be reused.

    Runs made before collections existed do not identify the image of a row.
    """
    table = storage.open_table(layout.join(run_dir, layout.MATCH_INPUTS))
    if identity.COLLECTION in table.schema.names:
        return True
    print(
        f"match: {redaction.escape_control_chars(run_dir)!r} was made by an earlier version, "
        "whose tables name no collections; all images are matched again",
        file=sys.stderr,
    )
    return False


def _distinct_uris(uris: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(uri.rstrip("/") for uri in uris))
