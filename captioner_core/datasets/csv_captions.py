"""Builds a dataset from a CSV file with one record for each caption."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from captioner_core.datasets import source_text, sources
from captioner_core.datasets.dataset_folder import DatasetSummary, DatasetWriter
from captioner_core.errors import CaptionerError
from captioner_core.images.decoding import IMAGE_SUFFIXES
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.vocabulary import single_line

_IMAGE_COLUMNS = ("image_id", "image", "file_name", "filename", "image_name")
_CAPTION_COLUMNS = ("caption", "comment")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


class _StrictCsv(csv.excel):
    """CSV in which text after a closing quote is an error, and blanks after a delimiter are not."""

    strict = True
    skipinitialspace = True


class CaptionRecord(NamedTuple):
    """A record of a CSV file of captions.

    Args:
      line: number of the line on which the record begins, counted from 1.
      image_id: the image; empty if the record names none.
      caption: the caption on a single line; may be empty.
      split: train, dev or test; None if the file has no column for it.
    """

    line: int
    image_id: str
    caption: str
    split: str | None


class CaptionsByImage(NamedTuple):
    """The captions of a CSV file, by image.

    Args:
      captions: captions of each image in their order, by image id.
      splits: split of each image, by image id; chosen by ``split_by_hash`` if the file names none.
      empty: number of records without an image or without a caption.
    """

    captions: dict[str, list[str]]
    splits: dict[str, str]
    empty: int


class _Form(NamedTuple):
    """The form of a CSV file: its delimiter, and the positions of its columns, counted from 0.

    Args:
      delimiter: the character between fields.
      width: number of all columns.
      image: position of the image.
      caption: position of the caption.
      split: position of the split; None if there is no such column.
    """

    delimiter: str
    width: int
    image: int
    caption: int
    split: int | None


class _Record(NamedTuple):
    """The fields of a record and the lines that it spans, counted from 1.

    Args:
      first_line: number of the line on which the record begins.
      last_line: number of the line on which it ends.
      fields: the fields, without surrounding whitespace.
    """

    first_line: int
    last_line: int
    fields: list[str]


def build(
    output: Path,
    *,
    csv_file: Path,
    images: Path | None = None,
    limit: int | None = None,
    collection: str | None = None,
    licence: str = "",
) -> DatasetSummary:
    """Builds a dataset folder from the captions of a CSV file. Its name is that of the folder.

    Args:
      output: the dataset folder.
      csv_file: the CSV file; see ``read_records``. If it has no column ``split``, 80 % of the
        images become train, 10 % dev and 10 % test, chosen by image id alone.
      images: folder with the images, which are linked if possible, else copied. None makes a
        dataset of captions alone.
      limit: number of images to use; None uses all.
      collection: name of the collection that the images belong to. None derives it from the folder.
      licence: what the owners of the data allow; model cards state it.

    Raises:
      CaptionerError: the file is missing, is not strictly a CSV file or lacks a column, a split is
        unknown, an image is in two splits, or an image id leads out of the images folder.
    """
    options = {
        "dataset": "csv",
        "csv": str(csv_file),
        "images": None if images is None else str(images),
        "limit": limit,
    }
    found = read_captions(csv_file)
    inputs = {"--csv": [csv_file], "--images": [images] if images else []}
    name = output.absolute().name
    writer = DatasetWriter(
        output, name, options, licence=licence, inputs=inputs, collection=collection
    )
    writer.left_out["lines without image or caption"] = found.empty
    if images is None:
        splits = sources.limit_images(found.splits, limit)
        captions = {image_id: found.captions[image_id] for image_id in splits}
        writer.left_out["image files, since no folder is named"] = len(captions)
        with writer:
            return writer.finish(captions, splits, has_images=False)
    return sources.import_images(writer, images, found.captions, found.splits, limit)


def read_captions(csv_file: Path) -> CaptionsByImage:
    """Returns the captions of a CSV file by image.

    Raises:
      CaptionerError: see ``read_records``; or an image is in two splits, or its id leads out of
        the images folder.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    first_lines: dict[str, int] = {}
    empty = 0
    for record in read_records(csv_file):
        if not record.image_id or not record.caption:
            empty += 1
            continue
        image_id = sources.safe_image_id(record.image_id, f"{csv_file}, line {record.line}: image")
        split = record.split or sources.split_by_hash(image_id)
        first_line = first_lines.setdefault(image_id, record.line)
        if splits.setdefault(image_id, split) != split:
            # Otherwise a model would be evaluated on images that it was trained on.
            raise CaptionerError(
                f"{csv_file}, line {record.line}: image {image_id!r} is in split {split!r} here "
                f"and in {splits[image_id]!r} on line {first_line}; put all its captions into one"
            )
        captions.setdefault(image_id, []).append(record.caption)
    return CaptionsByImage(captions, splits, empty)


def read_records(path: Path) -> list[CaptionRecord]:
    """Returns the records of a CSV file of captions, in their order.

    The file is UTF-8, or UTF-16 with a byte-order mark. Its header names ``image_id`` (or image,
    file_name, filename, image_name), ``caption`` (or comment) and optionally ``split``. The header
    decides whether commas, semicolons, tabs or pipes separate the fields. Line separators within
    a caption become spaces. Empty lines are skipped.

    Raises:
      CaptionerError: the file can't be read, lacks a column or names an unknown split, or a record
        has unclosed quotes or not as many fields as the header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptionerError(
            f"CSV file {str(path)!r} can't be read ({error.strerror}); name another"
        ) from error
    text = source_text.decode_source(data, str(path))
    form = _find_form(text, path)
    records = _parse_records(text, form.delimiter, path)
    next(record for record in records if any(record.fields))  # skips the header
    lines = list(io.StringIO(text, newline=""))  # split as csv.reader splits them
    captions = []
    for record in records:
        if len(record.fields) <= 1 and not any(record.fields):
            continue  # an empty line
        _check_record(record, form, lines, path)
        captions.append(_caption_record(record, form, path))
    return captions


def _find_form(text: str, path: Path) -> _Form:
    """Returns the form of a CSV file, by the first delimiter with which its header makes sense.

    Raises:
      CaptionerError: the header names no image or no caption, whichever character separates it.
    """
    headers = {delimiter: _read_header(text, delimiter) for delimiter in _DELIMITERS}
    for delimiter, names in headers.items():
        if form := _form_of(names, delimiter):
            return form
    header = max(headers.values(), key=len)
    repeated = [name for name in header if header.count(name) > 1 and name]
    if repeated:
        raise CaptionerError(
            f"CSV file {str(path)!r} has the column {repeated[0]!r} twice; remove one of them"
        )
    raise CaptionerError(
        f"CSV file {str(path)!r} has the columns {', '.join(header) or '(none)'}; "
        "it needs image_id and caption, named in its first line"
    )


def _read_header(text: str, delimiter: str) -> list[str]:
    """Returns the column names in the first line that is not empty; none if it is not valid CSV."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), _StrictCsv, delimiter=delimiter)
        return [field.strip().lower() for field in next(filter(any, reader), [])]
    except csv.Error:
        return []


def _form_of(names: Sequence[str], delimiter: str) -> _Form | None:
    """Returns the form of a file with these column names, or None if one is missing or repeated."""
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    caption = next((name for name in _CAPTION_COLUMNS if name in names), None)
    if image is None or caption is None:
        return None
    if any(names.count(name) > 1 for name in (image, caption, "split")):
        return None
    split = names.index("split") if "split" in names else None
    return _Form(delimiter, len(names), names.index(image), names.index(caption), split)


def _parse_records(text: str, delimiter: str, path: Path) -> Iterator[_Record]:
    reader = csv.reader(io.StringIO(text, newline=""), _StrictCsv, delimiter=delimiter)
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CaptionerError(
                f"{path}, line {first_line}: the quotes of the record that begins here are not "
                f"closed, or text follows them ({error}); close them, and write a quote within "
                "quotes twice"
            ) from error
        yield _Record(first_line, reader.line_num, [field.strip() for field in fields])


def _check_record(record: _Record, form: _Form, lines: Sequence[str], path: Path) -> None:
    """Checks that a record has the header's fields and contains no other record.

    Raises:
      CaptionerError: it has more or fewer fields than the header, or spans a line that looks like
        a record of its own.
    """
    name = _DELIMITERS[form.delimiter]
    where = f"{path}, line {record.first_line}"
    if len(record.fields) != form.width:
        remedy = (
            f"put a caption that holds a {name} in double quotes"
            if len(record.fields) > form.width
            else f"write all {form.width}, separated by a {name}"
        )
        raise CaptionerError(
            f"{where}: {len(record.fields)} fields where the header has {form.width}; {remedy}"
        )
    # Two unclosed quotes turn all lines between them into one record, which is valid CSV.
    if record.last_line == record.first_line:
        return
    own_line = record.first_line if form.image < form.caption else record.last_line
    for number in range(record.first_line, record.last_line + 1):
        image = _image_on(lines[number - 1], form)
        if image and (number != own_line or image != record.fields[form.image]):
            raise CaptionerError(
                f"{where}: the quotes that open here close behind a line for {image!r}; "
                "close them on their own line"
            )


def _image_on(line: str, form: _Form) -> str | None:
    """Returns the image that a line names if it could be a record of its own, otherwise None."""
    fields = line.split(form.delimiter)
    if len(fields) < form.width:
        return None
    image = fields[form.image].strip(' "\r\n')
    return image if image.lower().endswith(IMAGE_SUFFIXES) else None


def _caption_record(record: _Record, form: _Form, path: Path) -> CaptionRecord:
    image_id = record.fields[form.image]
    caption = single_line(record.fields[form.caption])
    if form.split is None:
        return CaptionRecord(record.first_line, image_id, caption, None)
    name = record.fields[form.split]
    split = canonical_split(name)
    # A record that is left out anyway may have an empty split, but not an unknown one.
    if split is None and (name or (image_id and caption)):
        raise CaptionerError(
            f"{path}, line {record.first_line}: split {name!r} is not one of {SPLIT_NAMES}; "
            "correct the line"
        )
    return CaptionRecord(record.first_line, image_id, caption, split)
