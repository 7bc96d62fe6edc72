"""Captions in a CSV file: a record for each caption, with columns for image, caption and, maybe, split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from captioner_core.datasets.base import (
    DatasetSummary,
    DatasetWriter,
    import_images,
    safe_image_id,
    split_by_hash,
)
from captioner_core.datasets.source_text import decode_source
from captioner_core.errors import CaptionerError
from captioner_core.images.decoding import IMAGE_SUFFIXES
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.vocabulary import single_line

_IMAGE_COLUMNS = ("image_id", "image", "file_name", "filename", "image_name")
_CAPTION_COLUMNS = ("caption", "comment")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


class CaptionRecord(NamedTuple):
    """One record of a CSV file.

    Args:
      line: number of the line on which the record begins, from 1.
      image_id: the image; empty where the record names none.
      caption: the caption on one line; may be empty.
      split: train, dev or test; None where the file has no such column.
    """

    line: int
    image_id: str
    caption: str
    split: str | None


class _Columns(NamedTuple):
    """Where a file's header puts its columns.

    Args:
      width: number of all columns.
      image: position of the image.
      caption: position of the caption.
      split: position of the split; None where there is none.
    """

    width: int
    image: int
    caption: int
    split: int | None


class CaptionsByImage(NamedTuple):
    """What a CSV file says of each image.

    Args:
      captions: image id to its captions, in their order.
      splits: image id to its split; by the id alone where the file names none.
      empty: number of records without an image or without a caption.
    """

    captions: dict[str, list[str]]
    splits: dict[str, str]
    empty: int


class _Record(NamedTuple):
    """The fields of one record, and the lines that it takes, from 1.

    Args:
      first_line: the line on which it begins.
      last_line: the line on which it ends.
      fields: its fields, without blanks around them.
    """

    first_line: int
    last_line: int
    fields: list[str]


def build(
    output: Path,
    *,
    csv_file: Path,
    images: Path,
    limit: int | None = None,
    collection: str | None = None,
) -> DatasetSummary:
    """Makes a dataset folder of a CSV's captions; images are linked, or copied where they can't be.

    Args:
      output: the dataset folder.
      csv_file: the CSV file; see ``read_records``. Without a column ``split``, 80 % of the images
        are train, 10 % dev and 10 % test, by the id alone.
      images: folder with the images.
      limit: number of images; all where None.
      collection: name of the collection that the images belong to; made from the folder where None.

    Raises:
      CaptionerError: the file is missing or not strictly a CSV file, lacks a column, names a split
        that is not known or an image in two splits, or an id leaves its folder.
    """
    options = {"dataset": "csv", "csv": str(csv_file), "images": str(images), "limit": limit}
    found = read_captions(csv_file)
    read = {"--csv": [csv_file], "--images": [images]}
    writer = DatasetWriter(output, "csv", options, inputs=read, collection=collection)
    writer.left_out["lines without image or caption"] = found.empty
    return import_images(writer, images, found.captions, found.splits, limit)


def read_captions(csv_file: Path) -> CaptionsByImage:
    """Returns the captions of a CSV file by image.

    Raises:
      CaptionerError: see ``read_records``; or an image is in two splits, or its id leaves its folder.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    first_lines: dict[str, int] = {}
    empty = 0
    for record in read_records(csv_file):
        if not record.image_id or not record.caption:
            empty += 1
            continue
        image_id = safe_image_id(record.image_id, f"{csv_file}, line {record.line}: image")
        split = record.split or split_by_hash(image_id)
        first_line = first_lines.setdefault(image_id, record.line)
        if splits.setdefault(image_id, split) != split:
            # A model would be evaluated on images that it has learnt.
            raise CaptionerError(
                f"{csv_file}, line {record.line}: image {image_id!r} is in split {split!r} here and in "
                f"{splits[image_id]!r} on line {first_line}; put all its captions into one"
            )
        captions.setdefault(image_id, []).append(record.caption)
    return CaptionsByImage(captions, splits, empty)


def read_records(path: Path) -> list[CaptionRecord]:
    """Returns the records of a CSV file of captions, in their order.

    The file is UTF-8, or UTF-16 with its byte-order mark. Its header names ``image_id`` (or image,
    file_name, filename, image_name), ``caption`` (or comment) and perhaps ``split``. The header
    tells whether commas, semicolons, tabs or pipes separate the fields. Line separators within a
    caption become spaces.

    Raises:
      CaptionerError: the file can't be read, lacks a column, has a record with more or fewer fields
        than the header or quotes that are not closed, or names a split that is not known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptionerError(
            f"CSV file {str(path)!r} can't be read ({error.strerror}); name another"
        ) from error
    text = decode_source(data, str(path))
    delimiter = _delimiter(text, path)
    records = _records(text, delimiter, path)
    header = next(record for record in records if any(record.fields))
    columns = _columns(header.fields)
    assert columns is not None  # _delimiter saw to it
    lines = list(io.StringIO(text, newline=""))  # as the reader counts them
    found = []
    for record in records:
        if len(record.fields) <= 1 and not any(record.fields):
            continue  # an empty line
        _check_record(record, columns, lines, delimiter, path)
        found.append(_caption_record(record, columns, path))
    return found


def _delimiter(text: str, path: Path) -> str:
    """Returns the character that separates the header's fields.

    Raises:
      CaptionerError: with none of them does the header name an image and a caption.
    """
    headers = {delimiter: _header(text, delimiter) for delimiter in _DELIMITERS}
    for delimiter, header in headers.items():
        if _columns(header) is not None:
            return delimiter
    header = max(headers.values(), key=len)
    twice = [name for name in header if header.count(name) > 1 and name]
    if twice:
        raise CaptionerError(
            f"CSV file {str(path)!r} has the column {twice[0]!r} twice; take one of them out"
        )
    raise CaptionerError(
        f"CSV file {str(path)!r} has the columns {', '.join(header) or '(none)'}; "
        "it needs image_id and caption, named in its first line"
    )


def _header(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    try:
        return next((_names(fields) for fields in reader if any(fields)), [])
    except csv.Error:
        return []


def _names(fields: Sequence[str]) -> list[str]:
    return [field.strip().lower() for field in fields]


def _columns(header: Sequence[str]) -> _Columns | None:
    """Returns where the columns are, or None where one is missing or there twice."""
    names = _names(header)
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    caption = next((name for name in _CAPTION_COLUMNS if name in names), None)
    if (
        image is None
        or caption is None
        or any(names.count(name) > 1 for name in (image, caption, "split"))
    ):
        return None
    split = names.index("split") if "split" in names else None
    return _Columns(len(names), names.index(image), names.index(caption), split)


def _records(text: str, delimiter: str, path: Path) -> Iterator[_Record]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CaptionerError(
                f"{path}, line {first_line}: the quotes of the record that begins here are not closed, or text "
                f"follows them ({error}); close them, and write a quote within quotes twice"
            ) from error
        yield _Record(first_line, reader.line_num, [field.strip() for field in fields])


def _check_record(
    record: _Record, columns: _Columns, lines: Sequence[str], delimiter: str, path: Path
) -> None:
    """Refuses a record whose fields are not those of the header.

    Raises:
      CaptionerError: it has more or fewer fields, or it seems to have swallowed the next one.
    """
    name = _DELIMITERS[delimiter]
    if len(record.fields) > columns.width:
        raise CaptionerError(
            f"{path}, line {record.first_line}: {len(record.fields)} fields where the header has {columns.width}; "
            f"put a caption that holds a {name} in double quotes"
        )
    if len(record.fields) < columns.width:
        raise CaptionerError(
            f"{path}, line {record.first_line}: {len(record.fields)} fields where the header has {columns.width}; "
            f"write all {columns.width}, separated by a {name}"
        )
    # Two quotes that are both not closed make one record of all between them, which is valid CSV.
    if record.last_line == record.first_line:
        return
    own_line = record.first_line if columns.image < columns.caption else record.last_line
    for number in range(record.first_line, record.last_line + 1):
        image = _image_of(lines[number - 1], columns, delimiter)
        if image and (number != own_line or image != record.fields[columns.image]):
            raise CaptionerError(
                f"{path}, line {record.first_line}: the quotes that open here close behind a line for "
                f"{image!r}; close them on their own line"
            )


def _image_of(line: str, columns: _Columns, delimiter: str) -> str | None:
    """Returns the image that a line names where it could be a record of its own, or None."""
    fields = line.split(delimiter)
    if len(fields) < columns.width:
        return None
    image = fields[columns.image].strip(' "\r\n')
    return image if image.lower().endswith(IMAGE_SUFFIXES) else None


def _caption_record(record: _Record, columns: _Columns, path: Path) -> CaptionRecord:
    image_id = record.fields[columns.image]
    caption = single_line(record.fields[columns.caption])
    if columns.split is None:
        return CaptionRecord(record.first_line, image_id, caption, None)
    name = record.fields[columns.split]
    split = canonical_split(name)
    if split is None and (name or (image_id and caption)):
        raise CaptionerError(
            f"{path}, line {record.first_line}: split {name!r} is not one of {SPLIT_NAMES}; correct the line"
        )
    return CaptionRecord(record.first_line, image_id, caption, split)
