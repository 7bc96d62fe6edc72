"""Defines the dataset folder, and writes one from any source.

- ``DIR/images/`` holds the images, ``DIR/captions.parquet`` the captions.
- ``DIR/dataset.json`` is written last. It marks the folder as complete and records how the
  dataset was made and what was left out.
- ``DIR/.captioner-files`` lists the files that captioner made in the folder. Captioner never
  replaces or deletes any other file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from captioner_core.errors import CaptionerError
from captioner_core.images.image_ids import file_name_of
from captioner_core.images.listing import DATASET_FOLDER
from captioner_core.io import json_text, outputs
from captioner_core.runs.identity import default_collection
from captioner_core.tables import layout
from captioner_core.tables.schemas import DATASET_CAPTIONS_SCHEMA, DatasetCaptionRow, rows_as_table


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """The contents of a dataset and how it was made; dataset.json holds these fields.

    Args:
      name: name of the dataset.
      options: the options that it was built with.
      images: number of images in each split.
      captions: number of captions.
      left_out: number of items that were not used, by a plural noun phrase such as
        ``images without a caption``.
      licence: a sentence on what the owners of the data allow.
      collection: name of the collection that the images belong to.
    """

    name: str
    options: Mapping[str, object]
    images: Mapping[str, int]
    captions: int
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    licence: str = ""
    collection: str = ""

    def lines(self) -> list[str]:
        """Returns the summary as text: the contents, then a line for each kind of item left out."""
        prefix = f"dataset {self.name}:"
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        total = sum(self.images.values())
        left_out = [f"{prefix} left out {n} {what}" for what, n in self.left_out.items() if n]
        return [f"{prefix} {total} images ({splits}), {self.captions} captions", *left_out]


class DatasetWriter:
    """Writes a dataset folder, or replaces one that captioner made.

    New files are staged first, and an existing dataset stays complete until ``finish``, which only
    renames and deletes files. So a failure before ``finish`` changes nothing. Used as a context
    manager, the writer deletes the staged files if the block raises.

    Args:
      output: the dataset folder.
      name: name of the dataset.
      options: options to record in dataset.json, which ``is_built`` compares.
      licence: what the owners of the data allow; model cards state it.
      inputs: the paths that are read, by the option that names them; none may lie in the folder.
      collection: name of the collection that the images belong to. None derives it from the folder.

    Raises:
      CaptionerError: the folder holds an input or files that captioner did not make, or it can't
        be written.
    """

    def __init__(
        self,
        output: Path,
        name: str,
        options: Mapping[str, object],
        licence: str = "",
        *,
        inputs: outputs.Inputs | None = None,
        collection: str | None = None,
    ) -> None:
        self._output = output
        self._name = name
        self._options = dict(options)
        self._licence = licence
        self._inputs = inputs or {}
        self._collection = collection or default_collection(str(self.images))
        self._folder: outputs.OutputFolder | None = None
        self.left_out: Counter[str] = Counter()
        check_dataset_output(output, inputs=self._inputs)

    @property
    def images(self) -> Path:
        """The folder of the images that the dataset contains so far."""
        return self._output / layout.DATASET_IMAGES

    def __enter__(self) -> DatasetWriter:
        """Returns the writer."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Deletes the staged files if the block raised."""
        if error is not None and self._folder is not None:
            self._folder.abandon()

    def check_images(self, image_ids: Iterable[str]) -> None:
        """Checks, before anything is staged, that the dataset would replace no foreign file.

        Raises:
          CaptionerError: a file that captioner did not make is in the way; the message names it.
        """
        self._claim().check_no_conflicts(
            [*map(_image_path, image_ids), layout.DATASET_CAPTIONS, layout.DATASET_SUMMARY]
        )

    def stage(self, image_id: str) -> Path:
        """Returns the path to write a new image to; ``finish`` moves the file into the dataset.

        Raises:
          CaptionerError: a file or link that captioner did not make is in the way.
        """
        return self._claim().stage(_image_path(image_id))

    def has(self, image_id: str) -> bool:
        """Returns whether the dataset already contains this image as a file that captioner made."""
        return self._claim().has_file(_image_path(image_id))

    def finish(
        self,
        captions: Mapping[str, Sequence[str]],
        splits: Mapping[str, str],
        *,
        has_images: bool = True,
    ) -> DatasetSummary:
        """Publishes the staged images with their captions, and deletes images no longer wanted.

        Args:
          captions: captions of each image, by image id.
          splits: split of each image, by image id.
          has_images: whether the images were staged; if not, the dataset holds captions alone.

        Raises:
          CaptionerError: there is no image, or a file that captioner did not make is in the way.
        """
        if not captions:
            raise CaptionerError(
                f"dataset {self._name!r}: no image has both a file and a caption; check the source"
            )
        digests = {image_id: self._digest(image_id) if has_images else "" for image_id in captions}
        rows = [
            DatasetCaptionRow(image_id, number, caption, splits[image_id], digests[image_id])
            for image_id in sorted(captions)
            for number, caption in enumerate(captions[image_id])
        ]
        counts = Counter(splits[image_id] for image_id in captions)
        summary = DatasetSummary(
            name=self._name,
            options=self._options,
            images={s: counts[s] for s in DatasetCaptionRow.SPLITS if counts[s]},
            captions=len(rows),
            left_out=dict(self.left_out),
            licence=self._licence,
            collection=self._collection,
        )
        folder = self._claim()
        table = rows_as_table(rows, self._name, DATASET_CAPTIONS_SCHEMA)
        pq.write_table(table, folder.stage(layout.DATASET_CAPTIONS), compression="zstd")
        text = json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) + "\n"
        folder.stage(layout.DATASET_SUMMARY).write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )
        images = map(_image_path, captions) if has_images else ()
        folder.publish(
            [*images, layout.DATASET_CAPTIONS],
            completion_file=layout.DATASET_SUMMARY,
        )
        return summary

    def _digest(self, image_id: str) -> str:
        """Returns the SHA-256 of an image file, staged or not, in hex; empty if there is none."""
        folder = self._claim()
        path = _image_path(image_id)
        file = (folder.staging_folder if folder.is_staged(path) else folder.path) / path
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _claim(self) -> outputs.OutputFolder:
        """Returns the output folder, which is created and claimed at the first call."""
        if self._folder is None:
            self._folder = outputs.OutputFolder.claim(
                self._output, kind=DATASET_FOLDER, inputs=self._inputs, adopt=_refuse_unlisted
            )
        return self._folder


def check_dataset_output(
    output: Path, option: str = "--output", inputs: outputs.Inputs | None = None
) -> None:
    """Checks, before any work, that a dataset may be written to a folder; changes nothing.

    Args:
      output: the dataset folder.
      option: the option that names the folder, for error messages.
      inputs: the paths that are read, by the option that names them; none may lie in the folder.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        output, kind=DATASET_FOLDER, option=option, inputs=inputs, adopt=_refuse_unlisted
    )


def is_built(output: Path, options: Mapping[str, object]) -> bool:
    """Returns whether the folder holds a complete dataset that was built with these options."""
    try:
        summary = json_text.parse_json((output / layout.DATASET_SUMMARY).read_bytes())
        has_same_options = bool(summary["options"] == dict(options))
        return has_same_options and (output / layout.DATASET_CAPTIONS).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _refuse_unlisted(folder: Path) -> set[str] | None:
    """Refuses a dataset of an earlier version; returns None for any other folder.

    Raises:
      CaptionerError: the earlier version kept no list of its files, so captioner can't tell which
        files it may delete.
    """
    names = (layout.DATASET_SUMMARY, layout.DATASET_CAPTIONS)
    if not all((folder / name).is_file() for name in names):
        return None
    raise CaptionerError(
        f"{str(folder)!r} holds a dataset of an earlier version, which kept no list of its files; "
        "name another folder, or delete this one"
    )


def _image_path(image_id: str) -> str:
    """Returns an image's path below the dataset folder, with surrogates for non-UTF-8 bytes."""
    return f"{layout.DATASET_IMAGES}/{os.fsdecode(file_name_of(image_id))}"
