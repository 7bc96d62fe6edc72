"""The form of a dataset folder, and what making one from any source shares.

``DIR/images/`` holds the images, ``DIR/captions.parquet`` the captions; ``DIR/dataset.json``
is written last and says that the folder is whole, what it was made of, and what was left out.
``DIR/.captioner-files`` lists what captioner made in the folder; nothing else is replaced or deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from captioner_core.errors import CaptionerError
from captioner_core.images.image_ids import file_name_of, path_of, with_slashes
from captioner_core.io import outputs
from captioner_core.io.json_text import parse_json
from captioner_core.runs.identity import default_collection
from captioner_core.security.archives import is_outside
from captioner_core.tables import layout
from captioner_core.tables.schemas import DATASET_CAPTIONS_SCHEMA, DatasetCaptionRow, rows_as_table

SPLITS = DatasetCaptionRow.SPLITS
DATASET, IMAGES = "dataset", "folder of images"
"""Kinds of output folders, as their markers state them."""


@dataclass(frozen=True)
class DatasetSummary:
    """What a dataset came to.

    Args:
      name: of the dataset.
      options: what it was asked for.
      images: number of images by split.
      captions: number of captions.
      left_out: what was not used, and how much of it, by a sentence's subject such as
        ``images without a caption``.
      licence: what its owners allow, a sentence.
      collection: name of the collection that its images belong to.
    """

    name: str
    options: Mapping[str, Any]
    images: Mapping[str, int]
    captions: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    collection: str = ""

    def lines(self) -> list[str]:
        """The summary for a person; what was left out is said even where it is little."""
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        first = f"dataset {self.name}: {sum(self.images.values())} images ({splits}), {self.captions} captions"
        return [
            first,
            *(
                f"dataset {self.name}: left out {n} {what}"
                for what, n in self.left_out.items()
                if n
            ),
        ]


class DatasetWriter:
    """Makes a dataset folder, or replaces one that captioner made.

    Images are staged first. A dataset that is already there stays whole until ``finish``, which only
    renames and deletes files; a failure before it changes nothing. As a context manager, the writer
    removes what it staged if the block raises.

    Args:
      output: the folder.
      name: of the dataset.
      options: what was asked for; ``is_built`` compares them.
      licence: what the data's owners allow; model cards state it.
      inputs: what is read, by the option that names it; none of it may lie in the folder.
      collection: name of the collection that the images belong to; made from the folder where None.

    Raises:
      CaptionerError: the folder holds files that captioner did not make, or an input, or cannot be written.
    """

    def __init__(
        self,
        output: Path,
        name: str,
        options: Mapping[str, Any],
        licence: str = "",
        *,
        inputs: outputs.Inputs | None = None,
        collection: str | None = None,
    ) -> None:
        self._output, self._name, self._options, self._licence = (
            output,
            name,
            dict(options),
            licence,
        )
        self._inputs = inputs or {}
        self._collection = collection or default_collection(str(output / layout.DATASET_IMAGES))
        self._folder: outputs.OutputFolder | None = None
        self.left_out: Counter[str] = Counter()
        check_dataset_output(output, inputs=self._inputs)

    @property
    def images(self) -> Path:
        """The folder of the images that the dataset has so far."""
        return self._output / layout.DATASET_IMAGES

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._folder is not None:
            self._folder.abandon()

    def check_images(self, image_ids: Iterable[str]) -> None:
        """Refuses, before an image is staged, ids in whose place somebody else's file lies.

        Raises:
          CaptionerError: one does; the line names it.
        """
        self._claim().check_free(
            [*map(_image_path, image_ids), layout.DATASET_CAPTIONS, layout.DATASET_SUMMARY]
        )

    def stage(self, image_id: str) -> Path:
        """Returns the path at which a new image is to be written; ``finish`` moves it to its place.

        Raises:
          CaptionerError: somebody else's file or link is in the way.
        """
        return self._claim().stage(_image_path(image_id))

    def has(self, image_id: str) -> bool:
        """Returns whether an image of this id is there, made by captioner and no link."""
        return self._claim().has(_image_path(image_id))

    def finish(
        self, captions: Mapping[str, Sequence[str]], splits: Mapping[str, str]
    ) -> DatasetSummary:
        """Puts the staged images in place, writes the captions, and removes captioner's images of an older dataset.

        Args:
          captions: image id to its captions.
          splits: image id to its split.

        Raises:
          CaptionerError: there is no image, so the source is not what it should be; or somebody else's
            file is in the way.
        """
        if not captions:
            raise CaptionerError(
                f"dataset {self._name!r}: no image has both a file and a caption; check the source"
            )
        digests = {image_id: self._digest(image_id) for image_id in captions}
        rows = [
            DatasetCaptionRow(image_id, number, caption, splits[image_id], digests[image_id])
            for image_id in sorted(captions)
            for number, caption in enumerate(captions[image_id])
        ]
        table = rows_as_table(rows, self._name, DATASET_CAPTIONS_SCHEMA)
        counts = Counter(splits[image_id] for image_id in captions)
        images = {split: counts[split] for split in SPLITS if counts[split]}
        summary = DatasetSummary(
            self._name,
            self._options,
            images,
            len(rows),
            dict(self.left_out),
            self._licence,
            self._collection,
        )
        folder = self._claim()
        pq.write_table(table, folder.stage(layout.DATASET_CAPTIONS), compression="zstd")
        text = json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) + "\n"
        folder.stage(layout.DATASET_SUMMARY).write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )
        folder.publish(
            [*map(_image_path, captions), layout.DATASET_CAPTIONS], mark=layout.DATASET_SUMMARY
        )
        return summary

    def _digest(self, image_id: str) -> str:
        """Returns the SHA-256 of an image's bytes, staged or in place; empty where there is no such file."""
        folder, path = self._claim(), _image_path(image_id)
        file = (folder.staging() if folder.is_staged(path) else folder.path) / path
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _claim(self) -> outputs.OutputFolder:
        if self._folder is None:
            self._folder = outputs.OutputFolder.claim(
                self._output, kind=DATASET, inputs=self._inputs, adopt=_refuse_earlier
            )
        return self._folder


def check_dataset_output(
    output: Path, option: str = "--output", inputs: outputs.Inputs | None = None
) -> None:
    """Refuses, before any work, a folder in which no dataset may be made; changes nothing.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        output, kind=DATASET, option=option, inputs=inputs, adopt=_refuse_earlier
    )


def _refuse_earlier(folder: Path) -> set[str] | None:
    """Tells a dataset that an earlier version made from a folder of somebody else's files.

    Raises:
      CaptionerError: it is one; that version kept no list of its files, so they cannot be told from others.
    """
    if (
        not (folder / layout.DATASET_SUMMARY).is_file()
        or not (folder / layout.DATASET_CAPTIONS).is_file()
    ):
        return None
    raise CaptionerError(
        f"{str(folder)!r} holds a dataset of an earlier version, which kept no list of the files that it made; "
        "name another folder, or delete this one"
    )


def _image_path(image_id: str) -> str:
    return f"{layout.DATASET_IMAGES}/{_file_name(image_id)}"


def _file_name(image_id: str) -> str:
    """Returns the path of an image's file below its folder; bytes that are not UTF-8 are surrogates in it."""
    return os.fsdecode(file_name_of(image_id))


def is_built(output: Path, options: Mapping[str, Any]) -> bool:
    """Whether a whole dataset made with these options is there."""
    try:
        summary = parse_json((output / layout.DATASET_SUMMARY).read_bytes())
        return (
            bool(summary["options"] == dict(options))
            and (output / layout.DATASET_CAPTIONS).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def safe_image_id(name: str, what: str) -> str:
    """Returns an image id that stays below its folder, with ``/`` between folders.

    Raises:
      CaptionerError: absolute, a drive, ``..``, a NUL, or empty.
    """
    image_id = with_slashes(name)
    if is_outside(name) or is_outside(os.fsdecode(file_name_of(image_id))):
        raise CaptionerError(
            f"{what} {name!r} would lie outside its folder; such a source is not used, mend it"
        )
    return str(PurePosixPath(image_id))


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a new file with another file's content: a hard link where that is possible, else a copy.

    The target must not exist. Once linked, neither of the two names may be opened for writing.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def check_split_output(dataset: Path, folder: Path, option: str) -> None:
    """Refuses, before any work, a folder in which ``link_split`` could not work; changes nothing.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        folder,
        kind=IMAGES,
        option=option,
        inputs={"--dataset": [dataset]},
        adopt=_earlier_split(dataset),
    )


def _earlier_split(dataset: Path) -> outputs.Adopt:
    """Returns what tells a folder that a version without markers made with ``link_split``.

    Such a folder holds nothing but hard links to images of the dataset, so nothing is lost if one is deleted.
    """

    def adopt(folder: Path) -> set[str] | None:
        files: set[str] = set()
        for below, folders, names in os.walk(folder):
            for name in (*folders, *names):
                relative = Path(below, name).relative_to(folder).as_posix()
                if name in folders and not (folder / relative).is_symlink():
                    files.add(f"{relative}/")
                elif _is_hard_link(folder / relative, dataset / layout.DATASET_IMAGES / relative):
                    files.add(relative)
                else:
                    return None
        return files

    return adopt


def _is_hard_link(path: Path, other: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except OSError:
        return False


def link_split(dataset: Path, folder: Path, image_ids: Iterable[str]) -> None:
    """Makes a folder of some of a dataset's images, or replaces one that captioner made.

    Raises:
      CaptionerError: an id leads out of the folder, or the folder holds files that captioner did not make.
    """
    wanted = sorted({safe_image_id(image_id, "image id") for image_id in image_ids})
    images = dataset / layout.DATASET_IMAGES
    root = images.resolve()
    found = [
        _file_name(image_id)
        for image_id in wanted
        if _is_file_below(path_of(images, image_id), root)
    ]
    output = outputs.OutputFolder.claim(
        folder,
        kind=IMAGES,
        option="folder",
        inputs={"dataset": [dataset]},
        adopt=_earlier_split(dataset),
    )
    output.check_free(found)
    for name in found:
        if not (output.has(name) and os.path.samefile(images / name, output.path / name)):
            link_or_copy(images / name, output.stage(name))
    output.keep_only(found)
    for name in filter(output.is_staged, found):
        output.place(name)
    output.finish()


def split_by_hash(image_id: str) -> str:
    """80 % train, 10 % dev, 10 % test, by the id alone, so that more images move none."""
    share = hash_order(image_id)[0] / 256
    return "train" if share < 0.8 else "dev" if share < 0.9 else "test"


def hash_order(image_id: str) -> bytes:
    """A key that sorts images at random, the same way every time."""
    return hashlib.sha256(image_id.encode("utf-8")).digest()


def limited(splits: Mapping[str, str], limit: int | None) -> dict[str, str]:
    """About ``limit`` of the images, each split by its share and none emptied.

    Raises:
      CaptionerError: the limit is lower than the number of splits.
    """
    if limit is None or limit >= len(splits):
        return dict(splits)
    by_split: dict[str, list[str]] = {}
    for image_id in sorted(splits, key=hash_order):
        by_split.setdefault(splits[image_id], []).append(image_id)
    if limit < len(by_split):
        raise CaptionerError(
            f"limit {limit} leaves no image for some of {len(by_split)} splits; give {len(by_split)} or more"
        )
    sizes = {split: max(1, limit * len(ids) // len(splits)) for split, ids in by_split.items()}
    rest = limit - sum(sizes.values())
    for split in sorted(
        by_split, key=lambda split: -len(by_split[split])
    ):  # the largest gives or takes first
        change = min(rest, len(by_split[split]) - sizes[split])
        sizes[split] += change
        rest -= change
    return {image_id: split for split, ids in by_split.items() for image_id in ids[: sizes[split]]}


def import_images(
    writer: DatasetWriter,
    images: Path,
    captions: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    limit: int | None,
) -> DatasetSummary:
    """Links the images that have captions into a dataset, and counts what is missing on either side.

    Raises:
      CaptionerError: the images folder is missing, or no image has both a file and a caption.
    """
    if not images.is_dir():
        raise CaptionerError(
            f"images folder {str(images)!r} is not a folder; name one with --images"
        )
    root = images.resolve()
    usable = {i for i in captions if captions[i] and _is_file_below(path_of(images, i), root)}
    listed = list(_image_ids(images))
    if not usable:
        raise CaptionerError(
            describe_no_pair([i for i in captions if captions[i]], listed, str(images))
        )
    writer.left_out["captions without their image"] = sum(
        len(captions[i]) for i in captions if i not in usable
    )
    writer.left_out["images without a caption"] = sum(1 for i in listed if not captions.get(i))
    chosen = limited({image_id: splits[image_id] for image_id in sorted(usable)}, limit)
    writer.left_out["images over the limit"] = len(usable) - len(chosen)
    with writer:
        if chosen:
            writer.check_images(chosen)
        for image_id in chosen:
            source = path_of(images, image_id)
            if not (
                writer.has(image_id) and os.path.samefile(source, path_of(writer.images, image_id))
            ):
                link_or_copy(source, writer.stage(image_id))
        return writer.finish({image_id: captions[image_id] for image_id in chosen}, chosen)


def describe_no_pair(captioned: Sequence[str], files: Sequence[str], where: str) -> str:
    """Returns a line that says, with an example of each, why no image has both a file and a caption.

    Args:
      captioned: ids of the images that have captions.
      files: ids of the images that have files.
      where: the folder or archive that holds the files.
    """
    problem = "no image has both a file and a caption"
    if not captioned:
        return f"{problem}: the source holds no caption of an image; name another source"
    if not files:
        return f"{problem}: the captions name {captioned[0]!r}, but {where!r} holds no images; name the images' folder"
    by_name = {PurePosixPath(file).name: file for file in files}
    same = next(
        (image_id for image_id in captioned if PurePosixPath(image_id).name in by_name),
        captioned[0],
    )
    file = by_name.get(PurePosixPath(same).name, files[0])
    remedy = "use the files' names in the captions, or name another folder"
    if file.endswith(f"/{same}"):
        remedy = f"name {str(Path(where, file.removesuffix(f'/{same}')))!r} as the images' folder"
    return f"{problem}: the captions name {same!r}, and {where!r} holds {file!r} instead; {remedy}"


def _is_file_below(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except OSError:  # a name longer than names can be, or a folder that may not be looked into
        return False


def _image_ids(images: Path) -> Iterator[str]:
    from captioner_core.images.listing import list_images
    from captioner_core.tables.schemas import ImageRef

    for entry in list_images(str(images)):
        if isinstance(entry, ImageRef):
            yield entry.image_id
