"""The examples in docstrings run, and print what they say.

They run in a folder with photographs, and with a finished run over them. A stand-in captions each
photograph by its colour, so that no example needs the weights of a network.
"""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from captioner_core.captioning.generated_caption import GeneratedCaption
from tests.fakes import FakeBackbone
from tests.runs import make_run

ROOT = Path(__file__).parents[1]
PACKAGES = ("captioner_core", "beam_jobs", "captioner_cli", "captioner_airflow")
# These search with the default encoder, which takes vectors of rare words from spaCy.
NEED_ASSETS = {
    "captioner_core",
    "captioner_core.api.search.search_captions",
    "captioner_core.api.similar.similar_images",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Photo(NamedTuple):
    """A photograph of one colour, and its caption."""

    colour: tuple[int, int, int]
    caption: str


PHOTOS = {
    "beach.jpg": Photo((220, 200, 120), "a dog runs on the beach"),
    "dog.png": Photo((40, 160, 60), "a dog runs through the grass"),
}
NEW = Photo((60, 90, 220), "a dog runs along the beach")


class Example(NamedTuple):
    """A docstring that contains examples.

    Args:
      module: the module.
      name: the qualified name of what the docstring documents.
      docstring: the docstring as it stands in the source.
    """

    module: str
    name: str
    docstring: str


def find_examples() -> Iterator[Example]:
    """Yields each docstring with an example, without importing what it is about."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if ">>> " in source:
                parts = path.relative_to(ROOT).with_suffix("").parts
                module = ".".join(part for part in parts if part != "__init__")
                yield from _examples_of(ast.parse(source), module, module)


def _examples_of(node: ast.AST, module: str, name: str) -> Iterator[Example]:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return
    docstring = ast.get_docstring(node, clean=False)
    if docstring and ">>> " in docstring:
        yield Example(module, name, docstring)
    for child in node.body:
        yield from _examples_of(child, module, f"{name}.{getattr(child, 'name', '')}")


EXAMPLES = list(find_examples())


class ColourCaptioner:
    """A captioner that writes the caption of the photograph that has the most similar colour."""

    model_id = "colours"

    def __init__(self) -> None:
        self._photos = [*PHOTOS.values(), NEW]
        colours = np.array([photo.colour for photo in self._photos], np.uint8)
        pixels = np.broadcast_to(colours[:, None, None], (len(colours), 299, 299, 3))
        self._features = FakeBackbone().features(pixels)[0]

    def generate(self, features, grid):
        """Returns a caption for each row of features."""
        distances = np.linalg.norm(features[:, None] - self._features, axis=2)
        captions = [self._photos[number].caption for number in distances.argmin(axis=1)]
        return [GeneratedCaption(text, -1.0, len(text.split())) for text in captions]


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """Makes the folder ``photos`` and the run ``out/runs/run``, and changes to their folder."""
    photos = tmp_path / "photos"
    photos.mkdir()
    captions = [photo.caption for photo in PHOTOS.values()]
    make_run(tmp_path, ids=list(PHOTOS), captions=captions, no_match_every=0, run_id="run")
    for name, photo in PHOTOS.items():
        Image.new("RGB", (80, 60), photo.colour).save(photos / name)
    Image.new("RGB", (80, 60), NEW.colour).save(tmp_path / "new.jpg")
    (photos / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stand_ins(monkeypatch):
    """Replaces the networks that the functions for Python programs load."""
    from captioner_core.analysis import similar_images
    from captioner_core.api import captions
    from captioner_core.captioning.captioning_models import CaptioningModels
    from captioner_core.weights import preconditions

    models = CaptioningModels(FakeBackbone(), ColourCaptioner())
    for module in (captions, similar_images):
        monkeypatch.setattr(module, "load_models", lambda *_, **__: models)
    monkeypatch.setattr(preconditions, "check_backbone", lambda *_: None)


def run_example(example: Example) -> str:
    """Runs the examples of a docstring, and returns what doctest reports about failures."""
    names = dict(vars(importlib.import_module(example.module)))
    test = doctest.DocTestParser().get_doctest(
        example.docstring, names, example.name, example.module, 0
    )
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    return "".join(report)


def params_of(examples: list[Example]) -> list[object]:
    """Returns the parameters of a test for each example; some need assets."""
    return [
        pytest.param(
            example,
            id=example.name,
            marks=[pytest.mark.assets] if example.name in NEED_ASSETS else [],
        )
        for example in examples
    ]


USES_NETWORKS = ("captioner_core", "captioner_core.api.captions", "captioner_core.api.similar")


@pytest.mark.parametrize(
    "example", params_of([one for one in EXAMPLES if one.module not in USES_NETWORKS])
)
def test_an_example_prints_what_it_says(example, working_folder):
    assert run_example(example) == ""


@pytest.mark.parametrize(
    "example", params_of([one for one in EXAMPLES if one.module in USES_NETWORKS])
)
def test_an_example_of_captioning_prints_what_it_says(example, working_folder, stand_ins):
    assert run_example(example) == ""


def test_no_example_is_left_out():
    assert len(EXAMPLES) >= 30
    assert {example.name for example in EXAMPLES} >= NEED_ASSETS
    skipped = [example.name for example in EXAMPLES if "doctest: +SKIP" in example.docstring]
    assert skipped == []


def test_an_example_that_prints_something_else_is_reported():
    wrong = Example("captioner_core.text.vocabulary", "wrong", ">>> tokenize('A dog')\n['A']\n")
    assert "['a', 'dog']" in run_example(wrong)
