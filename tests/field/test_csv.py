"""CSV files of captions as spreadsheets, scripts and Kaggle write them.

A file is read exactly, or it is refused with the line of the error.
"""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner_cli.main import main
from captioner_core.datasets import csv_captions
from captioner_core.datasets.csv_captions import read_records
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from tests.image_files import encoded, picture

JPEG = encoded(picture(), "JPEG")


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a CSV file and returns its path."""

    def write_file(text: str | bytes):
        path = tmp_path / "captions.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return path

    return write_file


@pytest.fixture
def images(tmp_path):
    """Returns a folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(JPEG)
    return folder


def pairs(path):
    """Returns the image id and the caption of each record."""
    return [(record.image_id, record.caption) for record in read_records(path)]


# --- Refused files, with the line on which the record begins

REFUSED = {
    "a comma without quotes": (
        "image_id,caption\na.jpg,a dog\nb.jpg,a cat, asleep\n",
        3,
        "double quotes",
    ),
    "a comma before the split": (
        "image_id,caption,split\na.jpg,a cat, asleep,dev\n",
        2,
        "double quotes",
    ),
    "a comma in place of the split": (
        "image_id,caption,split\na.jpg,a cat, asleep\n",
        2,
        "split 'asleep'",
    ),
    "a comma at the end": ("image_id,caption\na.jpg,a dog,\n", 2, "double quotes"),
    "a semicolon without quotes": ("image;caption\na.jpg;a cat; asleep\n", 2, "double quotes"),
    "a quote that nothing closes": (
        'image_id,caption\na.jpg,a dog\nb.jpg,"a cat\nc.jpg,a bird\n',
        3,
        "quotes",
    ),
    "a quote closed by the next one": (
        'image_id,caption\na.jpg,"a dog\nb.jpg,"a cat"\n',
        2,
        "quotes",
    ),
    "a quote closed at a later line's end": (
        'image_id,caption\na.jpg,"a dog\nb.jpg,a cat"\nc.jpg,x\n',
        2,
        "quotes",
    ),
    "a quote closed by an empty caption": (
        'image_id,caption\na.jpg,"a dog\nb.jpg,a cat\nc.jpg,"\n',
        2,
        "quotes",
    ),
    "a quote that spans captions of one image": (
        'image_id,caption\na.jpg,"a dog\na.jpg,a hound"\nb.jpg,x\n',
        2,
        "quotes",
    ),
    "a quote that spans three lines with the image last": (
        'caption,image\n"a dog,a.jpg\na cat,b.jpg\nx",c.jpg\n',
        2,
        "quotes",
    ),
    "a quote that spans two lines with the image last": (
        'caption,image\n"a dog,a.jpg\nx",c.jpg\n',
        2,
        "quotes",
    ),
    "text after quotes": ('image_id,caption\na.jpg,"Stop" says the sign\n', 2, "quotes"),
    "a missing caption": (
        "image_id,caption\na.jpg,a dog\n\nb.jpg\n",
        4,
        "1 fields where the header has 2",
    ),
    "a missing split": (
        "image_id,caption,split\na.jpg,a dog\n",
        2,
        "2 fields where the header has 3",
    ),
    "an extra field after a caption of two lines": (
        'image_id,caption\na.jpg,"a\ndog"\nb.jpg,a cat,x\n',
        4,
        "double quotes",
    ),
    "an extra field in a file with old line ends": (
        "image_id,caption\ra.jpg,a dog\rb.jpg,a cat,x\r",
        3,
        "double quotes",
    ),
    "an unknown split": (
        "image_id,caption,split\na.jpg,a dog,train\nb.jpg,a cat,holdout\n",
        3,
        "'holdout'",
    ),
    "an empty split": ("image_id,caption,split\na.jpg,a dog,train\nb.jpg,a cat,\n", 3, "split ''"),
    "bytes of Latin-1": (b"image_id,caption\na.jpg,a dog\nb.jpg,a caf\xe9\n", 3, "UTF-8"),
    "a field that never ends": ('image_id,caption\na.jpg,"' + "a dog\n" * 50_000, 2, "quotes"),
}


@pytest.mark.parametrize(("text", "line", "message"), REFUSED.values(), ids=REFUSED)
def test_an_ambiguous_record_is_refused_with_its_line(write, text, line, message):
    with pytest.raises(CaptionerError) as caught:
        read_records(write(text))
    assert f"line {line}: " in str(caught.value)
    assert message in str(caught.value)


def test_the_command_exits_with_2_and_writes_nothing(tmp_path, write, images, capsys):
    source = write("image_id,caption\na.jpg,a dog, running\n")
    command = [
        "dataset",
        "csv",
        "--csv",
        str(source),
        "--images",
        str(images),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "line 2" in line
    assert "double quotes" in line
    assert not (tmp_path / "out").exists()


def test_an_image_in_two_splits_is_refused_with_both_lines(tmp_path, write, images):
    source = write(
        "image_id,caption,split\na.jpg,a dog,train\nb.jpg,a cat,train\n./a.jpg,a hound,val\n"
    )
    with pytest.raises(
        CaptionerError,
        match=r"line 4: image 'a.jpg' is in split 'dev' here and in 'train' on line 2",
    ):
        csv_captions.build(tmp_path / "out", csv_file=source, images=images)


@pytest.mark.parametrize(
    "header",
    [
        "caption",
        "image_id",
        "a,b",
        "image_id,caption,caption",
        "image_id,image_id,caption",
        "a.jpg,a dog",
        "",
    ],
)
def test_a_header_with_a_missing_or_repeated_column_is_refused(write, header):
    with pytest.raises(CaptionerError, match=r"needs image_id and caption|twice"):
        read_records(write(f"{header}\na.jpg,a dog\n"))


# --- Accepted files


@pytest.mark.parametrize(
    "delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "pipe"]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_the_delimiter_is_read_from_the_header(write, delimiter, mark, line_end):
    others = "".join(other for other in ",;\t|" if other != delimiter)
    rows = [
        ["image_id", "caption", "split"],
        ["a.jpg", f"a{others}dog", "train"],
        ["b.jpg", f"x{delimiter}y", "dev"],
    ]
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    records = read_records(write(mark + stream.getvalue()))
    assert [record.line for record in records] == [2, 3]
    assert [record.image_id for record in records] == ["a.jpg", "b.jpg"]
    assert [record.split for record in records] == ["train", "dev"]
    assert records[0].caption == f"a{others}dog".replace("\t", " ")
    assert records[1].caption == f"x{delimiter}y".replace("\t", " ")


def test_the_flickr30k_file_from_kaggle_is_read(write):
    text = (
        "image_name| comment_number| comment\n"
        "a.jpg| 0| Two men , one tall .\n"
        "a.jpg| 1| Two guys .\n"
    )
    assert pairs(write(text)) == [("a.jpg", "Two men , one tall ."), ("a.jpg", "Two guys .")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_saved_by_excel_are_read(write, encoding):
    text = "Image\tCaption\r\na.jpg\ta caf\u00e9\r\n"
    assert pairs(write(text.encode(encoding))) == [("a.jpg", "a caf\u00e9")]


def test_byte_order_marks_of_joined_files_are_ignored(write):
    assert pairs(write("\ufeff\ufeffimage_id,caption\n\ufeffa.jpg,a dog\n")) == [("a.jpg", "a dog")]


def test_a_caption_of_several_lines_becomes_a_single_line(write):
    text = (
        'image_id,caption\r\na.jpg,"a dog\r\nruns\u2028fast\nand, far"\r\n'
        '\r\nb.jpg,"a ""big"" cat"\r\n'
    )
    records = read_records(write(text))
    assert [record.line for record in records] == [2, 6]
    assert [record.caption for record in records] == ["a dog runs fast and, far", 'a "big" cat']


def test_a_caption_of_several_lines_may_precede_its_image(write):
    assert pairs(write('caption,image\n"a dog\nruns",a.jpg\n')) == [("a.jpg", "a dog runs")]


def test_quotes_inside_a_field_and_spaces_before_quotes_are_read(write):
    text = 'image_id,caption\na.jpg, "a dog, asleep"\nb.jpg,a 5" pipe\n   \n'
    assert pairs(write(text)) == [("a.jpg", "a dog, asleep"), ("b.jpg", 'a 5" pipe')]


def test_other_names_of_splits_are_accepted(tmp_path, write, images):
    text = "image_id,caption,split\na.jpg,x,restval\nb.jpg,y,Validation\nc.jpg,z,test\n"
    csv_captions.build(tmp_path / "out", csv_file=write(text), images=images)
    frame = storage.read_table(str(tmp_path / "out" / "captions.parquet")).to_pandas()
    assert dict(zip(frame.image_id, frame.split, strict=True)) == {
        "a.jpg": "train",
        "b.jpg": "dev",
        "c.jpg": "test",
    }


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=12)


@given(
    captions=st.lists(FIELD.filter(lambda text: text.strip()), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_output_of_a_csv_writer_is_read_back(tmp_path_factory, captions, delimiter, quoting):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting)
    writer.writerow(["image", "caption"])
    writer.writerows([f"{number}.jpg", caption] for number, caption in enumerate(captions))
    path = tmp_path_factory.mktemp("csv") / "captions.csv"
    path.write_bytes(stream.getvalue().encode("utf-8"))
    records = read_records(path)
    assert [record.image_id for record in records] == [
        f"{number}.jpg" for number in range(len(captions))
    ]
    for record, caption in zip(records, captions, strict=True):
        assert "".join(record.caption.split()) == "".join(
            character
            for character in caption
            if not (character.isspace() or ord(character) < 32 or 127 <= ord(character) < 160)
        )
