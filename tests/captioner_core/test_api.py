"""The functions for Python programs: what they return, and that they agree with the commands."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import captioner_core
from captioner_core.errors import CaptionerError
from captioner_core.tables import layout
from tests.runs import make_run


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def captioner(load_models):
    """A captioner with the fake backbone and an untrained network."""
    return captioner_core.ImageCaptioner(load_models())


# --- The names of the package


def test_static_tools_see_the_names_that_are_imported_lazily():
    tree = ast.parse(Path(captioner_core.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imported = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported | {"CaptionerError", "__version__"} == set(captioner_core.__all__)


@pytest.mark.parametrize("name", captioner_core.__all__)
def test_each_exported_name_exists_and_is_documented(name):
    assert name in dir(captioner_core)
    assert getattr(captioner_core, name).__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        captioner_core.nothing  # noqa: B018


# --- Images and captions


def test_images_are_listed_as_a_run_lists_them(photos):
    listed = captioner_core.list_images(photos)
    assert len(listed) == 14
    assert listed == sorted(listed)
    assert str(photos / "notes.txt") not in listed
    assert len(captioner_core.list_images(photos, exclude=["*.jpg", "red/"])) == 9
    with pytest.raises(CaptionerError, match="is not a folder"):
        captioner_core.list_images(photos / "nothing")


def test_captions_are_those_of_the_job(photos, tmp_path, model_dir, load_models, captioner):
    from beam_jobs import caption_images
    from captioner_core.options import CaptionOptions

    options = CaptionOptions(images=str(photos), output=str(tmp_path), model=model_dir)
    caption_images.run(options, load=load_models)
    run = captioner_core.read_run(options.layout.run_dir)
    captions = run.read_table("captions").set_index("image_uri")
    failures = run.read_table("failures").set_index("image_uri")

    results = list(captioner.caption_images(captioner_core.list_images(photos)))
    assert len(results) == 14
    assert {result.path for result in results if result.error_type} == set(failures.index)
    for result in results:
        if result.error_type:
            failure = failures.loc[result.path]
            assert result.caption is None
            assert (result.error_type, result.error_message) == (
                failure.error_type,
                failure.error_message,
            )
        else:
            assert result.caption == captions.loc[result.path].caption
            assert result.log_prob == pytest.approx(captions.loc[result.path].log_prob, abs=1e-4)
    assert captioner.model_id == captions.model_id.iloc[0]


def test_each_of_many_files_has_a_result_in_their_order(photos, captioner):
    good = photos / "red" / "picture 0.png"
    missing = photos / "missing.png"
    paths = [missing, *[good] * 40, photos / "empty.jpg", good]
    results = list(captioner.caption_images(paths))
    assert [result.path for result in results] == [str(path) for path in paths]
    assert [number for number, result in enumerate(results) if result.caption is None] == [0, 41]
    assert results[0].error_type == "unreadable"
    assert results[41].error_type == "empty_file"


def test_files_that_cannot_be_used_alone_need_no_network(photos, captioner):
    [result] = captioner.caption_images(photos / "empty.jpg")
    assert result.error_type == "empty_file"
    assert list(captioner.caption_images([])) == []


def test_paths_outside_the_allowed_folders_are_refused_before_any_work(
    photos, captioner, monkeypatch
):
    monkeypatch.setenv("CAPTIONER_ROOTS", str(photos / "red"))
    captioner.caption_images(photos / "red" / "picture 0.png")
    with pytest.raises(CaptionerError, match="CAPTIONER_ROOTS"):
        captioner.caption_images(photos / "empty.jpg")


def test_an_unknown_precision_is_refused():
    with pytest.raises(CaptionerError, match="'float8' is not known"):
        captioner_core.load_captioner(precision="float8")


# --- Texts


def test_texts_become_unit_vectors():
    vectors = captioner_core.encode_text(["a dog runs", "a cat sleeps"], encoder="tfidf")
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1])
    one = captioner_core.encode_text("a dog runs", encoder="tfidf")
    assert np.array_equal(one, vectors[:1])
    with pytest.raises(CaptionerError, match="encoder 'nothing' is not known"):
        captioner_core.encode_text("a dog", encoder="nothing")


def test_a_sentence_finds_the_images_whose_captions_say_the_same(run_dir):
    table = f"{run_dir}/captions"
    sentence = "two children playing in the water"
    matches = captioner_core.search_captions(sentence, table, top_k=3, encoder="tfidf")
    assert [match.rank for match in matches] == [1, 2, 3]
    assert matches[0].query == sentence
    assert matches[0].caption == sentence
    assert matches[0].score == pytest.approx(1, abs=1e-5)
    assert matches[0].path is not None
    assert Path(matches[0].path).read_bytes()
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)


def test_the_matches_of_several_sentences_come_in_the_order_of_the_sentences(run_dir):
    sentences = [f"a woman riding a bicycle {number}" for number in range(11)]
    matches = captioner_core.search_captions(
        sentences, [f"{run_dir}/captions"], top_k=2, encoder="tfidf"
    )
    assert [match.query for match in matches] == [text for text in sentences for _ in range(2)]
    assert [match.rank for match in matches] == [1, 2] * 11


def test_a_threshold_leaves_out_weaker_matches(run_dir):
    matches = captioner_core.search_captions(
        "a woman", f"{run_dir}/captions", threshold=1, encoder="tfidf"
    )
    assert matches == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": []}, "tables is empty"),
        ({"tables": "nowhere"}, "contains no Parquet file"),
        ({"top_k": -1}, "must be 0 to 10000"),
        ({"threshold": 2}, "must be -1 to 1"),
        ({"encoder": "nothing"}, "is not known"),
    ],
)
def test_an_argument_that_breaks_its_rule_is_one_line(run_dir, arguments, message):
    with pytest.raises(CaptionerError, match=message):
        captioner_core.search_captions("a dog", **{"tables": f"{run_dir}/captions", **arguments})


# --- Runs


def test_a_run_has_tables(run_dir):
    run = captioner_core.read_run(run_dir)
    assert run.tables == list(layout.TABLES)
    assert run.manifest["counts"]["captions"] == 12
    captions = run.read_table("captions", ["image_id", "caption"])
    assert list(captions.columns) == ["image_id", "caption"]
    assert len(captions) == 12
    assert isinstance(captions, pd.DataFrame)
    assert run.table_path("captions") == f"{run_dir}/captions"


def test_a_table_or_column_that_a_run_lacks_is_one_line(run_dir):
    run = captioner_core.read_run(Path(run_dir))
    with pytest.raises(CaptionerError, match=r"has no table '\.\./captions'; choose one of"):
        run.read_table("../captions")
    with pytest.raises(CaptionerError, match="has no column 'colour'"):
        run.read_table("captions", ["colour"])


def test_a_run_that_is_not_complete_is_not_read(run_dir):
    Path(run_dir, "manifest.json").unlink()
    with pytest.raises(CaptionerError, match="missing or not complete"):
        captioner_core.read_run(run_dir)


def test_verifying_names_each_breach(run_dir):
    before = captioner_core.verify_run(run_dir)
    path = Path(run_dir, "manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["counts"]["captions"] += 1
    path.write_text(json.dumps(manifest), encoding="utf-8")
    added = set(captioner_core.verify_run(run_dir)) - set(before)
    assert "manifest.json counts 13 captions, the table has 12 rows" in added


# --- The packaged model


@pytest.mark.assets
@pytest.mark.slow
def test_the_packaged_model_writes_the_captions_of_captioner_run(sample_run):
    run = captioner_core.read_run(sample_run / "out" / "runs" / "run")
    captions = run.read_table("captions").set_index("image_uri").caption
    paths = captioner_core.list_images(sample_run / "data" / "images")
    results = captioner_core.caption_images([*paths, "nowhere.jpg"])
    assert {result.path: result.caption for result in results[:-1]} == captions.to_dict()
    assert results[-1].error_type == "unreadable"
    assert captioner_core.verify_run(run.run_dir) == []


@pytest.mark.assets
@pytest.mark.slow
def test_similar_images_are_those_with_similar_captions(sample_run):
    run = captioner_core.read_run(sample_run / "out" / "runs" / "run")
    image = captioner_core.list_images(sample_run / "data" / "images")[0]
    matches = captioner_core.similar_images(image, run.table_path("captions"), top_k=3)
    assert [match.rank for match in matches] == [1, 2, 3]
    assert image not in {match.path for match in matches}
    by_sentence = captioner_core.search_captions(
        matches[0].query, run.table_path("captions"), top_k=4
    )
    found = [match for match in by_sentence if match.path != image][:3]
    assert [(match.path, match.score) for match in matches] == [
        (match.path, match.score) for match in found
    ]
