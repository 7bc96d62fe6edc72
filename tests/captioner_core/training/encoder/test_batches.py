"""What a step of the encoder's training compares: pairs, similar images, and replaced words."""

from __future__ import annotations

import numpy as np

from captioner_core.training.encoder.caption_groups import NO_WORD, encode_groups
from captioner_core.training.encoder.replaced_words import WordReplacer
from captioner_core.training.encoder.similar_batches import cluster_centres, order_by_similarity

ROWS = {
    word: row
    for row, word in enumerate(["a", "dog", "runs", "two", "three", "red", "blue", "man"], 1)
}


def test_a_pair_is_two_captions_of_one_image():
    captions = [["a dog", "dog runs"], ["two", "three", "red"], ["blue", "man"]]
    groups = encode_groups(captions, ROWS)
    assert len(groups) == 3
    images = np.array([0, 1, 2, 1] * 50)
    first, second = groups.draw_pairs(images, np.random.default_rng(0))
    for image, one, other in zip(images.tolist(), first, second, strict=True):
        rows = groups.words[groups.starts[image] : groups.starts[image + 1]].tolist()
        assert one.tolist() in rows
        assert other.tolist() in rows
        assert one.tolist() != other.tolist()
    assert {tuple(row) for row in first[images == 1].tolist()} == {
        tuple(row) for row in groups.words[2:5].tolist()
    }, "every caption is drawn"


def test_unknown_words_are_left_out_and_long_captions_cut():
    groups = encode_groups([["a purple dog", "two " * 30]], ROWS)
    assert groups.words[0, :3].tolist() == [ROWS["a"], ROWS["dog"], NO_WORD]
    assert (groups.words[1] == ROWS["two"]).all()


def test_a_chunk_holds_similar_images():
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.normal(size=(8, 8)))[0]
    subject = np.repeat(np.arange(4), 30)
    vectors = centres[subject] + random.normal(0, 0.05, (120, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    order = order_by_similarity(vectors, clusters=4, chunk=5, random=np.random.default_rng(1))
    assert len(set(order.tolist())) == len(order) > 60
    mixed = [len(set(subject[chunk].tolist())) for chunk in order.reshape(-1, 5)]
    assert np.mean(np.array(mixed) == 1) > 0.9
    again = order_by_similarity(vectors, clusters=4, chunk=5, random=np.random.default_rng(1))
    np.testing.assert_array_equal(order, again)


def test_few_images_are_put_in_any_order():
    vectors = np.eye(3, dtype=np.float32)
    order = order_by_similarity(vectors, clusters=10, chunk=50, random=np.random.default_rng(0))
    assert sorted(order.tolist()) == [0, 1, 2]


def test_the_centre_of_a_cluster_is_the_direction_of_its_rows():
    centres = np.eye(3, dtype=np.float32)
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.01, (60, 3)).astype(np.float32)
    vectors = np.repeat(centres, 20, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = cluster_centres(vectors, 3, np.random.default_rng(1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (centres @ found.T).max(axis=0).min() > 0.7


def test_one_word_is_replaced_by_another_of_its_kind():
    captions = [["a red dog runs", "two dog"], ["man", "dog runs"]]
    words = encode_groups(captions, ROWS).words
    replaced = WordReplacer(ROWS).replace(words, np.random.default_rng(0))
    assert (replaced != words).sum(axis=1).tolist() == [1, 1, 0, 0]
    assert replaced[0, :4].tolist() == [ROWS["a"], ROWS["blue"], ROWS["dog"], ROWS["runs"]]
    assert replaced[1, :2].tolist() == [ROWS["three"], ROWS["dog"]]
