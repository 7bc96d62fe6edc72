"""What an earlier run found, so that no image goes through the network twice.

``earlier_images`` finds again what it found for the same bytes; ``failures_of`` tells which
images of it are to be looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import ImageOptions
from captioner_core.runs import commits
from captioner_core.tables import layout
from captioner_core.tables.schemas import (
    CAPTIONS_SCHEMA,
    FEATURES_GRID_SCHEMA,
    FEATURES_SCHEMA,
    LISTING,
    CaptionRow,
    FailureRow,
    FeatureRow,
    ImageRef,
)

SHA256 = "image_sha256"
_DECIDE_FEATURES = ("backbone", "precision")
# Images beyond them are failures of these types. Whatever lies within them is the same with others.
_LIMITS = {"max_pixels": "too_many_pixels", "max_bytes": "too_large"}
_CAPTION_COLUMNS = ("caption", "source", "model_id", "log_prob", "n_tokens", "unk_fraction")

Group = tuple[int, int]
"""A Parquet file, by its number, and one of its row groups."""


class _Index(NamedTuple):
    """Images by the digests of their bytes, each once.

    Args:
      digests: in rising order, bytes [images] of 64 hexadecimal digits.
      places: int64 [images, 3], of each the file, the row group and the row.
      pixels: int64 [images], of each its width times its height.
    """

    digests: npt.NDArray[np.bytes_]
    places: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureCache:
    """The images of a finished run, found by the digest of their bytes; read where they are asked for.

    Args:
      features: the Parquet files of its features table.
      captions: those of its captions table; None where features alone are wanted.
      grid: whether features come with their grid.
    """

    features: tuple[str, ...]
    captions: tuple[str, ...] | None
    grid: bool

    def find(self, sha256: str, max_pixels: int) -> tuple[Group, int] | None:
        """Returns where an image's features are: the row group, and the row in it.

        Args:
          sha256: of the image's bytes.
          max_pixels: of an image today. One with more was found under another limit; decoding it says that it fails.

        Returns:
          The place; None where the image is not known.
        """
        digests, places, pixels = self._index
        key = sha256.encode()
        at = int(np.searchsorted(digests, np.bytes_(key)))
        if at == len(digests) or digests[at] != key or pixels[at] > max_pixels:
            return None
        if self._captions is not None and sha256 not in self._captions:
            return None
        file, group, row = places[at].tolist()
        return (file, group), row

    def rows(self, group: Group) -> pa.Table:
        """The features rows of a row group."""
        columns = ["width", "height", "backbone", "feature", *(["grid"] if self.grid else [])]
        return storage.read_row_group(self.features[group[0]], group[1], columns)

    def caption(self, sha256: str) -> Mapping[str, Any]:
        """The columns of a captions row that don't say which image it is."""
        assert self._captions is not None, "asked for only where captions are wanted"
        return self._captions[sha256]

    @cached_property
    def _index(self) -> _Index:
        digests, places, pixels = (
            [np.empty(0, "S64")],
            [np.empty((0, 3), np.int64)],
            [np.empty(0, np.int64)],
        )
        for number, part in enumerate(self.features):
            file_system, path = storage.resolve(part)
            with file_system.open_input_file(path) as stream:
                file = pq.ParquetFile(stream)
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group, columns=[SHA256, "width", "height"])
                    digests.append(np.array(table.column(SHA256).to_pylist(), "S64"))
                    rows = np.arange(len(table))
                    places.append(
                        np.stack(
                            [np.full(len(rows), number), np.full(len(rows), group), rows], axis=1
                        )
                    )
                    sides = [
                        table.column(name).to_numpy().astype(np.int64)
                        for name in ("width", "height")
                    ]
                    pixels.append(sides[0] * sides[1])
        known, first = np.unique(np.concatenate(digests), return_index=True)
        return _Index(known, np.concatenate(places)[first], np.concatenate(pixels)[first])

    @cached_property
    def _captions(self) -> dict[str, dict[str, Any]] | None:
        if self.captions is None:
            return None
        found: dict[str, dict[str, Any]] = {}
        for part in self.captions:
            table = storage.read_table(part, (SHA256, *_CAPTION_COLUMNS))
            for row in table.to_pylist():
                found[row.pop(SHA256)] = row
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to workers: where to read, not what was read."""
        return {name: getattr(self, name) for name in ("features", "captions", "grid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def feature_row(
    table: pa.Table, row: int, image_id: str, image_uri: str, sha256: str
) -> FeatureRow:
    """A row of features as that of another image with the same bytes."""
    cell = {name: table.column(name)[row] for name in table.column_names}
    vectors = {name: cell[name].values.to_numpy() for name in ("feature", "grid") if name in cell}
    return FeatureRow(
        image_id=image_id,
        image_uri=image_uri,
        image_sha256=sha256,
        width=cell["width"].as_py(),
        height=cell["height"].as_py(),
        backbone=cell["backbone"].as_py(),
        feature=vectors["feature"],
        grid=vectors.get("grid"),
    )


def caption_row(known: Mapping[str, Any], image_id: str, image_uri: str, sha256: str) -> CaptionRow:
    """A caption as that of another image with the same bytes."""
    return CaptionRow(image_id=image_id, image_uri=image_uri, image_sha256=sha256, **known)


def earlier_images(
    options: ImageOptions,
    stage: str,
    *,
    also: Sequence[str] = (),
    grid: bool = False,
    model_id: str | None = None,
) -> FeatureCache | None:
    """What the run of that name has found, if it was finished and made in the same way.

    Args:
      options: of the job that is about to replace it.
      stage: ``extract`` or ``caption``.
      also: names of options that decide what is found, beside those that decide features.
      grid: whether the grid is wanted.
      model_id: of the captioner, where captions are wanted.

    Returns:
      Its images; None where there are none to take over, or none are wanted.
    """
    run = options.layout
    if not options.reuse or not storage.exists(run.manifest):
        return None
    tables = [layout.FEATURES, *([layout.CAPTIONS] if model_id is not None else [])]
    parts = {name: storage.list_parts(run.table(name)) for name in tables}
    wanted = {
        layout.FEATURES: FEATURES_GRID_SCHEMA if grid else FEATURES_SCHEMA,
        layout.CAPTIONS: CAPTIONS_SCHEMA,
    }
    if _incompatibility(options, stage, also, model_id) or not all(
        _has(parts[name], wanted[name]) for name in tables
    ):
        return None
    captions = tuple(parts[layout.CAPTIONS]) if model_id is not None else None
    return FeatureCache(tuple(parts[layout.FEATURES]), captions, grid)


@dataclass(frozen=True)
class Failures:
    """What a finished run has to look at again.

    Args:
      image_ids: the images that failed, for a reason that is asked for.
      folders: that could not be listed.
      others: the failures for other reasons, by image.
      kept: how many images did not fail.
    """

    image_ids: frozenset[str]
    folders: tuple[str, ...]
    others: Mapping[str, FailureRow]
    kept: int

    def retry_decision(self, entry: ImageRef | FailureRow) -> ImageRef | FailureRow | None:
        """What is to become of an image listed again, or of a folder that can't be listed.

        Returns:
          Itself where it is to be looked at again, its failure where that stays, None where its other rows stay.
        """
        image_id = entry.image_id
        if image_id in self.image_ids or any(
            image_id.startswith(f"{folder}/") for folder in self.folders
        ):
            return entry
        return self.others.get(image_id)


def failures_of(
    options: ImageOptions, stage: str, *, also: Sequence[str] = (), model_id: str | None = None
) -> Failures | None:
    """The failures of the run of that name, whose other rows are to stay.

    Args:
      options: of the job that is about to add to it.
      stage: ``extract`` or ``caption``.
      also: names of options that decide what is found, beside those that decide features.
      model_id: of the captioner, where captions are made.

    Returns:
      What failed; None where no failures are asked for, or the run is not complete.

    Raises:
      CaptionerError: the run was made otherwise, so new rows would not fit its others.
    """
    run = options.layout
    if not options.only_failures or not storage.exists(run.manifest):
        return None
    decide = ("images", "collection", "exclude", *also)
    other = _incompatibility(options, stage, decide, model_id) or _other_limit(options)
    if other:
        raise CaptionerError(
            f"--only-failures can't add to run {run.run_dir!r}, which was made {other}; run it without --only-failures"
        )
    columns = [field.name for field in dataclasses.fields(FailureRow)]
    failed = [
        FailureRow(**row)
        for row in storage.read_table(run.table(layout.FAILURES), columns).to_pylist()
    ]
    wanted = [
        row
        for row in failed
        if row.stage == LISTING or not options.failed_for or row.error_type in options.failed_for
    ]
    again = frozenset(row.image_id for row in wanted)
    return Failures(
        again,
        tuple(row.image_id for row in failed if row.stage == LISTING),
        {row.image_id: row for row in failed if row.image_id not in again},
        sum(map(storage.row_count, storage.list_parts(run.table(layout.FEATURES)))),
    )


def _incompatibility(
    options: ImageOptions, stage: str, also: Sequence[str], model_id: str | None
) -> str | None:
    """How the finished run of that name was made otherwise than it would be now; None where it was not."""
    run = options.layout
    try:
        manifest = commits.read_manifest(run.run_dir)
        if stage not in manifest["stages"]:
            return f"without a stage {stage!r}"
        if manifest["versions"] != commits.new_manifest(run)["versions"]:
            return "by other versions"
        for name in (*_DECIDE_FEATURES, *also):
            made, asked = _recorded(options, manifest, name), getattr(options, name)
            if made != (list(asked) if isinstance(asked, tuple) else asked):
                return f"with {name} {made!r}"
        if model_id is not None and manifest["model"]["model_id"] != model_id:
            return f"with model {manifest['model']['model_id']!r}"
    except (CaptionerError, KeyError, TypeError):
        return "by something else: its manifest.json is not of this form"
    return None


def _recorded(options: ImageOptions, manifest: commits.Manifest, name: str) -> Any:
    """Returns an option's value that a manifest states; of an option that came later, its default."""
    default = next(field.default for field in dataclasses.fields(options) if field.name == name)
    return manifest["options"].get(name, list(default) if isinstance(default, tuple) else None)


def _other_limit(options: ImageOptions) -> str | None:
    """Returns which limit would give the images kept, or failures not looked at again, another fate than they had.

    A higher limit changes nothing for images within the lower one. Failures beyond the lower one have to be looked at
    again.
    """
    made = commits.read_manifest(options.layout.run_dir)["options"]
    for name, error_type in _LIMITS.items():
        limit, asked = made.get(name), getattr(options, name)
        is_looked_at = not options.failed_for or error_type in options.failed_for
        if not isinstance(limit, int) or asked < limit or (asked > limit and not is_looked_at):
            return f"with {name} {limit!r}"
    return None


def _has(parts: Sequence[str], wanted: pa.Schema) -> bool:
    """Whether files are there and have these columns, of these types."""
    try:
        found = [
            {field.name: field.type for field in storage.open_table(part).schema} for part in parts
        ]
    except CaptionerError:
        return False
    return bool(parts) and all(
        types.get(field.name) == field.type for types in found for field in wanted
    )
