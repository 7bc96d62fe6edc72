"""Tables that users' own tools wrote.

They are read if their meaning is clear, and refused in one line otherwise.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.tables.columns import (
    explode_captions,
    split_column,
    text_column,
    vector_column,
)
from captioner_core.training.dataset import open_features, read_captions_by_split, read_grids

IDS = ["b.jpg", "a.jpg", "b.jpg", "c.jpg"]
CAPTIONS = ["a caf\u00e9", "a dog", "a bar", "a cat"]
SPLITS = ["train", "dev", "train", "test"]
EXPECTED = {
    "train": {"b.jpg": ["a caf\u00e9", "a bar"]},
    "dev": {"a.jpg": ["a dog"]},
    "test": {"c.jpg": ["a cat"]},
}
TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.dictionary(pa.int32(), pa.binary()),
]


def texts(values, kind):
    """Returns texts as an array of one of ``TEXT_TYPES``."""
    if pa.types.is_dictionary(kind):
        return texts(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, pa.large_string()).cast(kind)


@pytest.fixture
def dataset(tmp_path):
    """Returns a function that writes a dataset's table of captions and returns its folder."""

    def write(row_group_size=None, **columns):
        """Writes the table; ``columns`` replace its columns, and None leaves one out."""
        table = {
            "image_id": IDS,
            "caption_index": [0, 0, 1, 0],
            "caption": CAPTIONS,
            "split": SPLITS,
            **columns,
        }
        kept = {name: values for name, values in table.items() if values is not None}
        pq.write_table(pa.table(kept), tmp_path / "captions.parquet", row_group_size=row_group_size)
        return str(tmp_path)

    return write


def read_and_get_error(folder):
    """Returns the one line that says why a dataset's table is refused."""
    with pytest.raises(CaptionerError) as caught:
        read_captions_by_split(folder)
    assert "\n" not in str(caught.value)
    assert "captions.parquet" in str(caught.value)
    return str(caught.value)


# --- Accepted tables


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
@pytest.mark.parametrize("column", ["image_id", "caption", "split"])
@pytest.mark.parametrize("row_group_size", [None, 1])
def test_every_type_for_text_is_read(dataset, column, kind, row_group_size):
    values = {"image_id": IDS, "caption": CAPTIONS, "split": SPLITS}[column]
    folder = dataset(row_group_size, **{column: texts(values, kind)})
    assert read_captions_by_split(folder) == EXPECTED


def test_pandas_categories_are_read(dataset, tmp_path):
    folder = dataset()
    frame = pq.read_table(tmp_path / "captions.parquet").to_pandas()
    frame.astype(dict.fromkeys(("image_id", "caption", "split"), "category")).to_parquet(
        tmp_path / "captions.parquet"
    )
    assert read_captions_by_split(folder) == EXPECTED


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.binary()),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "id_type", [pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_a_list_may_hold_several_captions(dataset, kind, id_type):
    inner = kind.value_type
    flat = texts(["a dog", "a hound", "a cat"], inner)
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), flat)
    lists = lists.cast(kind)
    folder = dataset(
        image_id=texts(["b.jpg", "none.jpg", "a.jpg"], id_type),
        caption=lists,
        split=["train", "train", "dev"],
        caption_index=None,
    )
    assert read_captions_by_split(folder) == {
        "train": {"b.jpg": ["a dog", "a hound"]},
        "dev": {"a.jpg": ["a cat"]},
    }


def test_captions_without_an_index_keep_the_order_of_the_rows(dataset):
    captions = [f"caption {n}" for n in range(50)]
    folder = dataset(
        image_id=["a.jpg"] * 50, caption=captions, split=["dev"] * 50, caption_index=None
    )
    assert read_captions_by_split(folder) == {"dev": {"a.jpg": captions}}


def test_captions_are_sorted_by_their_index(dataset):
    folder = dataset(caption_index=pa.array([1.0, 0.0, 0.0, 0.0]))
    assert read_captions_by_split(folder)["train"] == {"b.jpg": ["a bar", "a caf\u00e9"]}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", " VALIDATION ", "dev"])
def test_other_names_of_the_split_dev_are_accepted(dataset, name):
    assert read_captions_by_split(dataset(split=["train", name, "train", "test"])) == EXPECTED


def test_the_split_restval_of_karpathy_is_train(dataset):
    assert read_captions_by_split(dataset(split=["restval", "val", "restval", "test"])) == EXPECTED


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\u2028", "\x85", "\v"])
def test_line_separators_within_captions_become_spaces(dataset, separator):
    captions = [text.replace(" ", separator) for text in CAPTIONS]
    assert read_captions_by_split(dataset(caption=captions)) == EXPECTED


# --- Refused tables


@pytest.mark.parametrize("column", ["image_id", "caption", "split"])
@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
@pytest.mark.parametrize("row_group_size", [None, 2])
def test_a_null_is_refused_with_its_row(dataset, column, kind, row_group_size):
    values = {"image_id": IDS, "caption": CAPTIONS, "split": SPLITS}[column]
    folder = dataset(row_group_size, **{column: texts([*values[:2], None, values[3]], kind)})
    assert f"column '{column}', row 3: it is null" in read_and_get_error(folder)


@pytest.mark.parametrize("column", ["image_id", "caption", "split"])
def test_a_column_of_nulls_is_refused(dataset, column):
    assert f"column '{column}', row 1: it is null" in read_and_get_error(
        dataset(**{column: pa.nulls(4)})
    )


def test_a_null_in_or_for_a_list_of_captions_is_refused(dataset):
    lists = [["a dog"], [], ["a cat", None], ["a bar"]]
    assert "column 'caption', row 3: it is null" in read_and_get_error(dataset(caption=lists))
    lists = [["a dog"], None, ["a cat"], ["a bar"]]
    assert "column 'caption', row 2: it is null" in read_and_get_error(dataset(caption=lists))


@pytest.mark.parametrize("column", ["image_id", "caption"])
def test_bytes_that_are_not_utf_8_are_refused_with_their_row(dataset, column):
    data = pa.array([b"a", b"b", b"\xff\xfe", b"d"])
    # A string column of Parquet can hold any bytes too, because readers do not check them.
    for values in (data, data.view(pa.string()), data.cast(pa.binary_view())):
        assert f"column '{column}', row 3: b'\\xff\\xfe' is not UTF-8" in read_and_get_error(
            dataset(**{column: values})
        )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3, 4], "int64"),
        ([[["a"]], [["b"]], [["c"]], [["d"]]], "list"),
        ([{"raw": "a"}] * 4, "struct"),
        ([1.5] * 4, "double"),
    ],
)
@pytest.mark.parametrize("column", ["image_id", "caption", "split"])
def test_a_column_of_another_type_is_refused_with_its_type(dataset, column, values, kind):
    line = read_and_get_error(dataset(**{column: pa.array(values)}))
    assert f"column '{column}': it holds {kind}" in line


@pytest.mark.parametrize("name", ["holdout", "", "training set"])
def test_an_unknown_split_is_refused_with_its_row(dataset, name):
    line = read_and_get_error(dataset(2, split=["train", "dev", "train", name]))
    assert f"column 'split', row 4: {name!r} is no split" in line
    assert "train, dev" in line


def test_an_image_in_two_splits_is_refused(dataset):
    line = read_and_get_error(dataset(split=["train", "dev", "test", "test"]))
    assert "'b.jpg' is in the splits 'train' and 'test'" in line


def test_an_index_of_text_is_refused(dataset):
    assert "column 'caption_index'" in read_and_get_error(
        dataset(caption_index=["first", "first", "second", "first"])
    )


def test_a_damaged_table_is_refused(dataset, tmp_path):
    folder = dataset(caption=[f"a dog {n} " * 2_000 for n in range(4)])
    path = tmp_path / "captions.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    read_and_get_error(folder)


def test_a_repeated_column_is_refused(tmp_path):
    columns = [pa.array(values) for values in (IDS, CAPTIONS, CAPTIONS, SPLITS)]
    table = pa.Table.from_arrays(columns, names=["image_id", "caption", "caption", "split"])
    pq.write_table(table, tmp_path / "captions.parquet")
    read_and_get_error(str(tmp_path))


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--model", "pretrained"],
        ["calibrate", "--encoder", "tfidf", "--output", "calibration.json"],
    ],
)
def test_commands_refuse_a_table_in_one_line(dataset, command, capsys):
    folder = dataset(caption=[*CAPTIONS[:3], None])
    assert main([*command, "--dataset", folder]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- Columns by themselves


def test_rows_are_counted_from_the_first_row_of_a_batch():
    for refuse in (
        lambda: text_column(pa.array(["a", None]), "caption", "t", first_row=101),
        lambda: split_column(pa.array(["dev", "x"]), "t", first_row=101),
        lambda: explode_captions(
            pa.record_batch({"caption": [["a"], ["b", None]]}), "t", first_row=101
        ),
    ):
        with pytest.raises(CaptionerError, match="row 102"):
            refuse()


def test_a_column_without_rows_is_text():
    for kind in (*TEXT_TYPES, pa.null()):
        assert text_column(pa.chunked_array([], kind), "caption", "t").type == pa.string()
        assert len(split_column(pa.array([], kind), "t")) == 0


def test_text_in_chunks_is_one_array():
    chunks = [texts(["a"], TEXT_TYPES[6]), texts(["b", "a"], TEXT_TYPES[6])]
    assert text_column(pa.chunked_array(chunks), "caption", "t").to_pylist() == ["a", "b", "a"]


# --- Features that another tool has rewritten


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
@pytest.mark.parametrize("vectors", ["fixed", "list", "large list"])
def test_features_in_other_types_are_read(tmp_path, kind, vectors):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 4)
    lists = {
        "fixed": fixed,
        "list": fixed.cast(pa.list_(pa.float32())),
        "large list": pa.array(list(rows), pa.large_list(pa.float32())),
    }
    table = pa.table(
        {
            "image_id": texts(["a", "b", "c"], kind),
            "backbone": texts(["xception"] * 3, kind),
            "feature": lists[vectors],
            "grid": lists[vectors],
        }
    )
    pq.write_table(table, tmp_path / "features.parquet")
    dataset, image_ids, backbone = open_features(str(tmp_path / "features.parquet"))
    assert (image_ids, backbone) == ({"a", "b", "c"}, "xception")
    (batch,) = read_grids(dataset, ["a", "c"])
    assert batch[0] == ["a", "c"]
    np.testing.assert_array_equal(batch[1], rows[[0, 2]])
    np.testing.assert_array_equal(batch[2], rows[[0, 2]])


@pytest.mark.parametrize("values", [[[1.0], None], [[1.0], [1.0, 2.0]], ["a", "b"]])
def test_values_that_are_no_vectors_are_refused(values):
    with pytest.raises(CaptionerError, match="column 'feature'"):
        vector_column(pa.array(values), "feature", "t")
