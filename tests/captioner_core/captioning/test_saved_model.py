"""The captioner, and the model folders that store it.

Searching and training compute the same, a folder gives the same model back, exported models caption
alike, and damaged folders are refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load, save

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.ensemble import build_captioner
from captioner_core.captioning.export import export_model
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.grid import attended_cells
from captioner_core.captioning.network import Captioner, ImageState
from captioner_core.captioning.saved_model import load_model, save_model
from captioner_core.captioning.search.base import load_search
from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary():
    """Returns a small vocabulary."""
    return Vocabulary.from_captions(["a red dog runs on the grass", "two cats sleep"])


def make_captioner(vocabulary, **changes):
    """Returns a small untrained captioner; ``changes`` replace fields of its config."""
    config = CaptionerConfig(
        backbone="fake-299",
        vocabulary_size=len(vocabulary),
        cell_dim=16,
        units=16,
        embedding_dim=8,
        heads=2,
        **changes,
    )
    return Captioner(config, seed=3)


def random_state(captioner, images=3):
    """Returns the state of a captioner for random images."""
    shape = [images, captioner.config.cell_count, 16]
    cells = tf.random.stateless_uniform(shape, seed=[0, 1])
    return captioner.encode(cells)


def every_step(captioner, state, words):
    """Returns logits [batch, captions, steps, vocabulary] of all steps."""
    logits = captioner.teacher_forced(state, words, tf.ones_like(words, tf.bool))
    return tf.reshape(logits, [*words.shape, -1])


@pytest.mark.parametrize("attention", ["grid", "mean"])
def test_steps_agree_with_teacher_forcing(vocabulary, attention):
    """Search and training must be the same model, word for word."""
    captioner = make_captioner(vocabulary, attention=attention)
    state = random_state(captioner)
    words = np.stack([[vocabulary.encode("two red cats", 4), vocabulary.encode("a dog", 4)]] * 3)
    expected = tf.nn.log_softmax(every_step(captioner, state, words[:, :, :-1]))
    hidden, cell = (tf.repeat(t[:, None], 2, axis=1) for t in (state.hidden, state.cell))
    for step in range(3):
        log_prob, hidden, cell = captioner.step(ImageState(*state), words[:, :, step], hidden, cell)
        np.testing.assert_allclose(log_prob, expected[:, :, step], atol=1e-5)


def test_only_the_selected_steps_get_logits(vocabulary):
    """A mask that took the wrong rows would train every word on another word's context."""
    captioner = make_captioner(vocabulary)
    state = random_state(captioner)
    words = np.stack([[vocabulary.encode("two red cats", 4), vocabulary.encode("a dog", 4)]] * 3)
    is_selected = words != 0
    selected = captioner.teacher_forced(state, words, is_selected)
    np.testing.assert_allclose(
        selected, every_step(captioner, state, words)[is_selected], atol=1e-6
    )


def test_attention_looks_at_the_cells(vocabulary):
    """Changing some cells changes the logits."""
    captioner = make_captioner(vocabulary)
    cells = tf.random.stateless_uniform([1, 25, 16], seed=[0, 1])
    words = vocabulary.encode("a dog", 4)[None, None, :-1]
    changed = tf.concat([-cells[:, :5], cells[:, 5:]], axis=1)
    one = captioner.encode(cells)
    other = captioner.encode(changed)
    # The initial hidden states depend on the cells too, so both get the same.
    other = ImageState(other.keys, other.values, one.hidden, one.cell)
    assert (
        np.abs(every_step(captioner, one, words) - every_step(captioner, other, words)).max() > 1e-4
    )


def test_half_precision_computes_about_the_same(vocabulary):
    """Weights and logits stay float32, whatever is computed in between."""
    config = make_captioner(vocabulary).config
    whole, half = (
        Captioner(config, seed=3, precision=precision) for precision in ("float32", "bfloat16")
    )
    cells = tf.random.stateless_uniform([2, 25, 16], seed=[0, 1])
    words = np.stack([vocabulary.encode("two red cats", 4)[None, :-1]] * 2)
    one, other = (every_step(model, model.encode(cells), words) for model in (whole, half))
    assert other.dtype == tf.float32
    assert {variable.dtype for variable in half.trainable_variables} == {"float32"}
    assert half.encode(cells).keys.dtype == tf.bfloat16
    np.testing.assert_allclose(one, other, atol=5e-3)


@pytest.mark.parametrize("attention", ["grid", "mean"])
def test_a_table_and_a_backbone_give_the_same_cells(vocabulary, attention):
    """In a table of features, a grid is flat."""
    grid = np.random.default_rng(0).random((2, 25, 16), np.float32)
    config = make_captioner(vocabulary, attention=attention).config
    cells = attended_cells(grid, config)
    np.testing.assert_array_equal(attended_cells(grid.reshape(2, -1), config), cells)
    np.testing.assert_allclose(
        cells, grid if attention == "grid" else grid.mean(axis=1, keepdims=True), atol=1e-6
    )


@pytest.fixture
def folder(tmp_path, vocabulary):
    """Returns the folder of a saved captioner."""
    path = tmp_path / "model"
    save_model(str(path), make_captioner(vocabulary), vocabulary, {"history": []})
    return path


def test_a_folder_gives_the_same_model_back(folder, vocabulary):
    loaded = load_model(str(folder))
    assert loaded.vocabulary == vocabulary
    captioner = build_captioner(loaded)
    assert isinstance(captioner, Captioner)
    for one, other in zip(
        make_captioner(vocabulary).trainable_variables,
        captioner.trainable_variables,
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert loaded.model_id in (folder / "MODEL_CARD.md").read_text()
    assert json.loads((folder / "metrics.json").read_text())["model_id"] == loaded.model_id


def test_a_caption_depends_on_its_image_alone(folder):
    generator = CaptionGenerator(load_model(str(folder)))
    grid = np.random.default_rng(1).random((5, 25, 16), np.float32)
    mean = grid.mean(axis=1)
    together = generator.generate(mean, grid)
    separate = [generator.generate(mean[i : i + 1], grid[i : i + 1])[0] for i in range(5)]
    assert [c.text for c in together] == [c.text for c in separate]
    np.testing.assert_allclose(
        [c.log_prob for c in together], [c.log_prob for c in separate], atol=1e-4
    )
    assert all(c.text and c.n_tokens == len(c.text.split()) and c.log_prob < 0 for c in together)


def test_saving_again_replaces_the_model_and_leaves_other_files(folder, vocabulary):
    before = {path.name for path in folder.iterdir()}
    (folder / "notes.txt").write_text("x")
    save_model(str(folder), make_captioner(vocabulary, attention="mean"), vocabulary, {})
    assert load_model(str(folder)).config.attention == "mean"
    assert (folder / "notes.txt").read_text() == "x"
    assert {path.name for path in folder.iterdir()} == {*before, "notes.txt"}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_an_exported_copy_captions_alike(folder, tmp_path):
    model_id = export_model([str(folder)], str(tmp_path / "small"))
    assert model_id != load_model(str(folder)).model_id, "other weights have another id"
    assert model_id in (tmp_path / "small" / "MODEL_CARD.md").read_text()
    stored = load((tmp_path / "small" / "weights.safetensors").read_bytes())
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(np.float16)}
    grid = np.random.default_rng(1).random((5, 25, 16), np.float32)
    whole, small = (
        CaptionGenerator(load_model(str(path))).generate(grid.mean(axis=1), grid)
        for path in (folder, tmp_path / "small")
    )
    np.testing.assert_allclose(
        [one.log_prob for one in small], [one.log_prob for one in whole], rtol=0.01
    )
    with pytest.raises(CaptionerError, match="exists"):
        export_model([str(folder)], str(tmp_path / "small"))


def test_an_ensemble_averages_its_members(folder, tmp_path, vocabulary):
    """Words, states or members could be mixed up; then the mean of the members would differ."""
    other = tmp_path / "other"
    config = make_captioner(vocabulary).config
    save_model(str(other), Captioner(config, seed=8), vocabulary, {})
    export_model([str(folder), str(other)], str(tmp_path / "both"))
    both: Any = build_captioner(load_model(str(tmp_path / "both")))
    assert both.config.members == 2
    singles = [make_captioner(vocabulary), Captioner(config, seed=8)]
    cells = tf.random.stateless_uniform([3, 25, 16], seed=[0, 1])
    words = np.stack([vocabulary.encode("two red cats", 4)[None]] * 3)
    expected = [
        tf.nn.softmax(every_step(one, one.encode(cells), words[:, :, :-1])) for one in singles
    ]
    state = both.encode(cells)
    hidden = state.hidden[:, None]
    cell = state.cell[:, None]
    for step in range(3):
        log_prob, hidden, cell = both.step(state, words[:, :, step], hidden, cell)
        np.testing.assert_allclose(
            np.exp(log_prob), np.mean(expected, axis=0)[:, :, step], atol=1e-3
        )


def test_the_joint_space_chooses_among_the_beams(folder, tmp_path, vocabulary):
    """With all weight on the joint space, the beam nearest to the image wins."""
    config = dataclasses.replace(
        make_captioner(vocabulary).config, backbone=LearnedEncoder().backbone, beam_width=4
    )
    save_model(str(tmp_path / "one"), Captioner(config, seed=3), vocabulary, {})
    export_model([str(tmp_path / "one")], str(tmp_path / "joint"), joint_weight=100.0)
    random = np.random.default_rng(1)
    grid = random.random((6, 25, 16), np.float32)
    features = random.random((6, 2048), np.float32)
    model = load_model(str(tmp_path / "joint"))
    encoder = LearnedEncoder()
    words = load_search(model).find(grid).words
    images = encoder.encode_images(features)
    chosen = CaptionGenerator(model).generate(features, grid)
    plain = CaptionGenerator(load_model(str(tmp_path / "one"))).generate(features, grid)
    for image, beams, caption in zip(images, words, chosen, strict=True):
        texts = [model.vocabulary.decode(beam) for beam in beams]
        assert caption.text == texts[int(np.argmax(encoder.encode(texts) @ image))]
    assert [one.text for one in chosen] != [one.text for one in plain]
    _edit_config(tmp_path / "joint", joint_encoder="learned/0")
    with pytest.raises(CaptionerError, match="'learned/0', the package has 'learned/"):
        CaptionGenerator(load_model(str(tmp_path / "joint")))
    with pytest.raises(CaptionerError, match="--joint-weight needs features of"):
        export_model([str(folder)], str(tmp_path / "other"), joint_weight=1.0)


def test_models_of_different_sizes_are_not_joined(folder, tmp_path, vocabulary):
    other = tmp_path / "other"
    save_model(str(other), make_captioner(vocabulary, attention="mean"), vocabulary, {})
    with pytest.raises(CaptionerError, match="other sizes"):
        export_model([str(folder), str(other)], str(tmp_path / "both"))
    assert not (tmp_path / "both").exists()


def _edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _edit_weights(folder, **changes):
    file = folder / "weights.safetensors"
    tensors = {**load(file.read_bytes()), **changes}
    file.write_bytes(save({name: value for name, value in tensors.items() if value is not None}))


BREAKS = {
    "missing file": lambda f: (f / "vocabulary.json").unlink(),
    "not JSON": lambda f: (f / "config.json").write_text("{"),
    "unknown field": lambda f: _edit_config(f, colour="red"),
    "wrong type": lambda f: _edit_config(f, units="16"),
    "another size": lambda f: _edit_config(f, units=32),
    "another format": lambda f: _edit_config(f, format_version=99),
    "vocabulary of another model": lambda f: (f / "vocabulary.json").write_text(
        Vocabulary.from_captions(["b"]).to_json()
    ),
    "cut weights": lambda f: (f / "weights.safetensors").write_bytes(
        (f / "weights.safetensors").read_bytes()[:1000]
    ),
    "tensor missing": lambda f: _edit_weights(f, **{"queries/bias": None}),
    "tensor too many": lambda f: _edit_weights(f, extra=np.zeros(1, np.float32)),
    "NaN": lambda f: _edit_weights(f, **{"queries/bias": np.full(16, np.nan, np.float32)}),
    "whole numbers": lambda f: _edit_weights(f, **{"queries/bias": np.zeros(16, np.int32)}),
    "not there": lambda f: shutil.rmtree(f),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_damaged_folder_is_refused_in_one_line(folder, name):
    BREAKS[name](folder)
    with pytest.raises(CaptionerError, match="model folder") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
