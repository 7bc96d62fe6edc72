"""Reuses the results of a finished run, so that no image goes through the network twice.

When a run is made again under the same run id, ``earlier_images`` returns the features and
captions that it already has, by the digest of the image's bytes. With ``--only-failures``,
``failures_of`` returns the images that are to be tried again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
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
# The options on which features depend.
_FEATURE_OPTIONS = ("backbone", "precision", "engine")
# The limits and the failures of images that exceed them. An image within two limits has the same
# result with either.
_LIMITS = {"max_pixels": "too_many_pixels", "max_bytes": "too_large"}
# What identifies an image. Its other columns follow from its bytes, so they are reused.
_IMAGE_COLUMNS = ("image_id", "image_uri", SHA256)
_REUSED_COLUMNS = {
    row_class: tuple(
        field.name for field in dataclasses.fields(row_class) if field.name not in _IMAGE_COLUMNS
    )
    for row_class in (FeatureRow, CaptionRow)
}

Group = tuple[int, int]
"""A row group: the number of its Parquet file, and its number within the file."""


class _DigestIndex(NamedTuple):
    """The positions of images in the features table, each digest once.

    Args:
      digests: bytes [images], each of 64 hexadecimal digits, in ascending order.
      positions: int64 [images, 3], the numbers of file, row group and row.
      pixels: int64 [images], width times height.
    """

    digests: npt.NDArray[np.bytes_]
    positions: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """The results of a finished run, by the SHA-256 of the image's bytes.

    Tables are read when they are first needed, so a cache is small when it is sent to workers.

    Args:
      features: URIs of the Parquet files of the features table.
      captions: URIs of the Parquet files of the captions table; None if only features are wanted.
      grid: whether features include the grid.
    """

    features: tuple[str, ...]
    captions: tuple[str, ...] | None
    grid: bool

    def find(self, sha256: str, max_pixels: int) -> tuple[Group, int] | None:
        """Returns the position of an image's features, or None if the run has no result for it.

        Args:
          sha256: SHA-256 of the image's bytes.
          max_pixels: today's limit. An image with more pixels is not returned, so that it is
            decoded again and fails as it would without the cache.

        Returns:
          The row group and the row within it.
        """
        index = self._index
        key = sha256.encode()
        at = int(np.searchsorted(index.digests, np.bytes_(key)))
        if at == len(index.digests) or index.digests[at] != key or index.pixels[at] > max_pixels:
            return None
        if self._captions is not None and sha256 not in self._captions:
            return None
        file, group, row = index.positions[at].tolist()
        return (file, group), row

    def rows(self, group: Group) -> pa.Table:
        """Returns the rows of a row group of the features table."""
        columns = [name for name in _REUSED_COLUMNS[FeatureRow] if name != "grid" or self.grid]
        return storage.read_row_group(self.features[group[0]], group[1], columns)

    def caption(self, sha256: str) -> Mapping[str, Any]:
        """Returns the columns of an image's captions row that do not identify the image."""
        assert self._captions is not None, "this cache was made without captions"
        return self._captions[sha256]

    @cached_property
    def _index(self) -> _DigestIndex:
        digests = [np.empty(0, "S64")]
        positions = [np.empty((0, 3), np.int64)]
        pixels = [np.empty(0, np.int64)]
        for number, part in enumerate(self.features):
            file_system, path = storage.resolve(part)
            with file_system.open_input_file(path) as stream:
                file = pq.ParquetFile(stream)
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group, columns=[SHA256, "width", "height"])
                    digests.append(np.array(table.column(SHA256).to_pylist(), "S64"))
                    rows = np.arange(len(table))
                    columns = [np.full(len(rows), number), np.full(len(rows), group), rows]
                    positions.append(np.stack(columns, axis=1))
                    width = table.column("width").to_numpy().astype(np.int64)
                    pixels.append(width * table.column("height").to_numpy().astype(np.int64))
        unique, first = np.unique(np.concatenate(digests), return_index=True)
        return _DigestIndex(unique, np.concatenate(positions)[first], np.concatenate(pixels)[first])

    @cached_property
    def _captions(self) -> dict[str, Mapping[str, Any]] | None:
        if self.captions is None:
            return None
        captions: dict[str, Mapping[str, Any]] = {}
        for part in self.captions:
            table = storage.read_table(part, (SHA256, *_REUSED_COLUMNS[CaptionRow]))
            for row in table.to_pylist():
                captions[row.pop(SHA256)] = row
        return captions

    def __getstate__(self) -> dict[str, object]:
        """Returns what is sent to workers: the files' URIs without anything read from them."""
        return {name: getattr(self, name) for name in ("features", "captions", "grid")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def feature_row(
    table: pa.Table, row: int, image_id: str, image_uri: str, sha256: str
) -> FeatureRow:
    """Returns a cached row of features as the row of another image with the same bytes.

    Args:
      table: a row group of the features table.
      row: the row in it.
      image_id: the other image.
      image_uri: the path or URI of the other image's file.
      sha256: SHA-256 of the file's bytes.
    """
    cached: dict[str, Any] = {
        name: _cell_value(table.column(name)[row]) if name in table.column_names else None
        for name in _REUSED_COLUMNS[FeatureRow]
    }
    return FeatureRow(image_id=image_id, image_uri=image_uri, image_sha256=sha256, **cached)


def _cell_value(cell: pa.Scalar) -> Any:
    """Returns a cell as rows hold it: a vector as a numpy array."""
    is_vector = isinstance(cell, pa.FixedSizeListScalar)
    return cell.values.to_numpy() if is_vector else cell.as_py()


def caption_row(
    cached: Mapping[str, Any], image_id: str, image_uri: str, sha256: str
) -> CaptionRow:
    """Returns a cached caption as the row of another image with the same bytes.

    Args:
      cached: what ``FeatureCache.caption`` returned.
      image_id: the other image.
      image_uri: the path or URI of the other image's file.
      sha256: SHA-256 of the file's bytes.
    """
    return CaptionRow(image_id=image_id, image_uri=image_uri, image_sha256=sha256, **cached)


def earlier_images(
    options: ImageOptions,
    stage: str,
    *,
    also: Sequence[str] = (),
    grid: bool = False,
    model_id: str | None = None,
) -> FeatureCache | None:
    """Returns the results of the finished run that a job is about to replace.

    Args:
      options: the job's options.
      stage: the job's stage, ``extract`` or ``caption``.
      also: names of further options on which the results depend, besides those of features.
      grid: whether the grid is wanted.
      model_id: the id of the model whose captions are wanted; None if only features are.

    Returns:
      The results; None if the job may not reuse any (``--no-reuse``), there is no finished run,
      or the run was made with other options or versions.
    """
    run = options.layout
    if not options.reuse or not storage.exists(run.manifest):
        return None
    if _incompatibility(options, stage, also, model_id):
        return None
    features = storage.list_parts(run.table(layout.FEATURES))
    if not _has_columns(features, FEATURES_GRID_SCHEMA if grid else FEATURES_SCHEMA):
        return None
    if model_id is None:
        return FeatureCache(tuple(features), None, grid)
    captions = storage.list_parts(run.table(layout.CAPTIONS))
    if not _has_columns(captions, CAPTIONS_SCHEMA):
        return None
    return FeatureCache(tuple(features), tuple(captions), grid)


@dataclasses.dataclass(frozen=True)
class Failures:
    """The failures of a finished run, divided into those to retry and those to keep.

    Args:
      image_ids: the failed images to retry.
      folders: the folders that could not be listed. They are always retried.
      others: the failures to keep, by image id.
      kept: the number of images that did not fail.
    """

    image_ids: frozenset[str]
    folders: tuple[str, ...]
    others: Mapping[str, FailureRow]
    kept: int

    def retry_decision(self, entry: ImageRef | FailureRow) -> ImageRef | FailureRow | None:
        """Returns what the new listing's entry becomes.

        Args:
          entry: an image, or a folder that cannot be listed.

        Returns:
          The entry itself if it is to be retried; its failure if that is kept; None if the run
          already has a result for it.
        """
        image_id = entry.image_id
        is_in_folder = any(image_id.startswith(f"{folder}/") for folder in self.folders)
        if image_id in self.image_ids or is_in_folder:
            return entry
        return self.others.get(image_id)


def failures_of(
    options: ImageOptions, stage: str, *, also: Sequence[str] = (), model_id: str | None = None
) -> Failures | None:
    """Returns the failures of the finished run whose failed images a job retries.

    Args:
      options: the job's options.
      stage: the job's stage, ``extract`` or ``caption``.
      also: names of further options on which the results depend, besides those of features.
      model_id: the id of the model that writes captions; None if the job makes none.

    Returns:
      The failures; None without ``--only-failures``, or if there is no finished run.

    Raises:
      CaptionerError: the run was made with other options or versions, so new rows would not fit
        the rows that it keeps.
    """
    run = options.layout
    if not options.only_failures or not storage.exists(run.manifest):
        return None
    decisive = ("images", "collection", "exclude", *also)
    difference = _incompatibility(options, stage, decisive, model_id)
    difference = difference or _limit_incompatibility(options)
    if difference:
        raise CaptionerError(
            f"--only-failures cannot add to run {run.run_dir!r}, which was made {difference}; "
            "run it without --only-failures"
        )
    columns = [field.name for field in dataclasses.fields(FailureRow)]
    table = storage.read_table(run.table(layout.FAILURES), columns)
    failed = [FailureRow(**row) for row in table.to_pylist()]
    retried = frozenset(
        row.image_id
        for row in failed
        if row.stage == LISTING or not options.failed_for or row.error_type in options.failed_for
    )
    return Failures(
        image_ids=retried,
        folders=tuple(row.image_id for row in failed if row.stage == LISTING),
        others={row.image_id: row for row in failed if row.image_id not in retried},
        kept=sum(map(storage.row_count, storage.list_parts(run.table(layout.FEATURES)))),
    )


def _incompatibility(
    options: ImageOptions, stage: str, also: Sequence[str], model_id: str | None
) -> str | None:
    """Returns how the finished run differs from what the job would make now, or None.

    The text continues the sentence "the run was made ...".
    """
    run = options.layout
    try:
        manifest = commits.read_manifest(run.run_dir)
        if stage not in manifest["stages"]:
            return f"without a stage {stage!r}"
        if manifest["versions"] != commits.new_manifest(run)["versions"]:
            return "by other versions"
        for name in (*_FEATURE_OPTIONS, *also):
            recorded = _recorded_option(options, manifest, name)
            current = getattr(options, name)
            if recorded != (list(current) if isinstance(current, tuple) else current):
                return f"with {name} {recorded!r}"
        if model_id is not None and manifest["model"]["model_id"] != model_id:
            return f"with model {manifest['model']['model_id']!r}"
    except (CaptionerError, KeyError, TypeError):
        return "by something else: its manifest.json lacks what captioner writes"
    return None


def _recorded_option(options: ImageOptions, manifest: commits.Manifest, name: str) -> Any:
    """Returns an option's value in a manifest, or the default of an option that is newer."""
    default = next(field.default for field in dataclasses.fields(options) if field.name == name)
    return manifest["options"].get(name, list(default) if isinstance(default, tuple) else None)


def _limit_incompatibility(options: ImageOptions) -> str | None:
    """Returns which changed limit would affect images that are not retried, or None.

    A lower limit would make kept images fail. A higher limit does not affect kept images, but the
    images that exceeded the old one must be retried.
    """
    recorded = commits.read_manifest(options.layout.run_dir)["options"]
    for name, error_type in _LIMITS.items():
        limit = recorded.get(name)
        current = getattr(options, name)
        is_retried = not options.failed_for or error_type in options.failed_for
        if not isinstance(limit, int) or current < limit or (current > limit and not is_retried):
            return f"with {name} {limit!r}"
    return None


def _has_columns(parts: Sequence[str], schema: pa.Schema) -> bool:
    try:
        found = [
            {field.name: field.type for field in storage.open_table(part).schema} for part in parts
        ]
    except CaptionerError:
        return False
    return bool(parts) and all(
        types.get(field.name) == field.type for types in found for field in schema
    )
