"""The contract that the search of every engine must fulfil, on small networks with random weights.

The engines find the same captions as TensorFlow, and those of an image do not depend on its batch.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.captioning.search import numpy_network, numpy_search
from captioner_core.captioning.search.base import load_search
from captioner_core.errors import CaptionerError
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

ENGINES = ("openvino", "tensorflow")
IMAGES = 20
CONFIGS: dict[str, dict[str, Any]] = {
    "grid": {},
    "mean": {"attention": "mean"},
    "ensemble": {"members": 3, "heads": 4},
    "ensemble of means": {"members": 2, "attention": "mean", "length_penalty": 0.0},
    "one word at most": {"max_words": 1},
}


def make_model(words=60, scale=0.5, **changes):
    """Returns a captioner with random weights for cells of 12 channels.

    Args:
      words: The size of the vocabulary.
      scale: The standard deviation of the weights.
      changes: Fields of the configuration.
    """
    vocabulary = Vocabulary.from_captions([" ".join(f"w{number}" for number in range(words - 4))])
    fields: dict[str, Any] = {
        "backbone": "fake-299",
        "vocabulary_size": words,
        "cell_dim": 12,
        "units": 16,
        "embedding_dim": 10,
        "heads": 2,
        "max_words": 6,
        "length_penalty": 0.7,
    }
    config = CaptionerConfig(**{**fields, **changes})
    random = np.random.default_rng(5)
    tensors = {
        name: random.normal(0, scale, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    return LoadedModel(config, vocabulary, "lstm-random", tensors)


def draw_cells(model, images=IMAGES):
    """Returns the cells of random images."""
    shape = (images, model.config.cell_count, model.config.cell_dim)
    return np.random.default_rng(7).normal(0, 2, shape).astype(np.float16)


@functools.cache
def find_expected(name, beam_width):
    """Returns what TensorFlow finds with one of ``CONFIGS``."""
    model = make_model(**CONFIGS[name])
    return load_search(model, beam_width, "tensorflow").find(draw_cells(model))


def assert_same(found, expected, atol=1e-4):
    """Compares hypotheses."""
    np.testing.assert_array_equal(found.words, expected.words)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=atol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("beam_width", [1, 3, 10])
@pytest.mark.parametrize("name", CONFIGS)
def test_engines_keep_the_contract(name, beam_width, engine, monkeypatch):
    monkeypatch.setattr(numpy_search, "count_processors", lambda: 2)
    model = make_model(**CONFIGS[name])
    cells = draw_cells(model)
    search = load_search(model, beam_width, engine)
    found = search.find(cells)
    assert found.words.shape == (IMAGES, beam_width, model.config.max_words + 1)
    assert found.words.dtype == np.int32
    assert found.log_prob.dtype == np.float32
    assert_same(found, find_expected(name, beam_width))
    for row in found.words.reshape(-1, found.words.shape[2]):
        length = row.tolist().index(END)
        assert length >= 1
        assert not set(row[:length]) & {PAD, START, UNKNOWN}
        assert (row[length + 1 :] == PAD).all()
    lengths = (found.words != PAD).sum(axis=2)
    assert lengths.max() == model.config.max_words + 1, "some captions are ended by force"
    scores = found.log_prob / lengths**model.config.length_penalty
    assert (np.diff(scores, axis=1) <= 1e-6).all(), "the best hypothesis comes first"
    for first in range(0, IMAGES, 7):
        alone = search.find(cells[first : first + 1])
        np.testing.assert_array_equal(alone.words[0], found.words[first])
        np.testing.assert_allclose(alone.log_prob[0], found.log_prob[first], atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_beams_without_a_caption_come_last(engine):
    """Three words make only three captions of one word."""
    model = make_model(words=7, max_words=1)
    found = load_search(model, 5, engine).find(draw_cells(model))
    for words, log_prob in zip(found.words, found.log_prob, strict=True):
        assert {tuple(row) for row in words[:3].tolist()} == {(w, END) for w in (4, 5, 6)}
        assert (log_prob[:3] > -100).all()
        assert (log_prob[3:] <= -1e9).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_may_be_empty(engine):
    model = make_model()
    words, log_prob = load_search(model, 3, engine).find(draw_cells(model, 0))
    assert (words.shape, log_prob.shape) == ((0, 3, 7), (0, 3))


def test_large_logits_do_not_overflow():
    model = make_model(scale=20.0, members=2)
    cells = draw_cells(model)
    with np.errstate(all="raise", under="ignore"):
        found = load_search(model, 3, "openvino").find(cells)
    expected = load_search(model, 3, "tensorflow").find(cells)
    np.testing.assert_array_equal(found.words[:, 0], expected.words[:, 0])


def test_a_table_that_would_be_too_large_is_not_made(monkeypatch):
    """A configuration may come from a stranger, and ask for more memory than its weights need."""
    model = make_model(members=2)
    cells = draw_cells(model)
    expected = load_search(model, 3).find(cells)
    monkeypatch.setattr(numpy_network, "MAX_TABLE_BYTES", 0)
    assert_same(load_search(model, 3).find(cells), expected, atol=1e-5)


def test_an_unknown_engine_is_refused():
    with pytest.raises(CaptionerError, match="engine 'abacus' is not known; choose one of openv"):
        load_search(make_model(), engine="abacus")


def test_the_packaged_model_captions_without_tensorflow():
    """Importing TensorFlow takes seconds and hundreds of megabytes."""
    code = (
        "import sys; import numpy as np\n"
        "from captioner_core.captioning.generator import CaptionGenerator\n"
        "from captioner_core.captioning.saved_model import load_model\n"
        "generator = CaptionGenerator(load_model('pretrained'))\n"
        "random = np.random.default_rng(0)\n"
        "grid = random.normal(0, 1, (2, 25, 3800))\n"
        "captions = generator.generate(random.random((2, 2048), np.float32), grid)\n"
        "assert len(captions) == 2 and all(caption.text for caption in captions)\n"
        "print(sorted({'tensorflow', 'keras', 'spacy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
