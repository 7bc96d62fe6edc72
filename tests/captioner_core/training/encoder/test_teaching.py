"""The learned encoder imitates a teacher: captions near to it there become near here."""

from __future__ import annotations

import numpy as np

from captioner_core.training.encoder.caption_groups import encode_groups
from captioner_core.training.encoder.teaching import Teacher
from tests.fakes import HashedWords

CAPTIONS = [[f"image {n} one", f"image {n} two", f"image {n} three"] for n in range(9)]
WORDS = sorted({word for texts in CAPTIONS for text in texts for word in text.split()})
ROW_OF = {word: row for row, word in enumerate(WORDS, start=1)}


def test_each_caption_is_drawn_with_the_vector_of_its_own_words():
    groups = encode_groups(CAPTIONS, ROW_OF)
    teacher = Teacher(HashedWords(), CAPTIONS, groups, seed=0)
    batch = teacher.draw(4, np.random.default_rng(1))
    assert batch.words.shape[0] == batch.vectors.shape[0] == 8
    texts = [" ".join(WORDS[row - 1] for row in rows if row) for rows in batch.words]
    assert len(set(texts)) == 8
    np.testing.assert_allclose(batch.vectors, HashedWords().encode(texts), atol=1e-3)


def test_fewer_images_than_wanted_are_all_drawn():
    teacher = Teacher(HashedWords(), CAPTIONS, encode_groups(CAPTIONS, ROW_OF), seed=0)
    assert len(teacher.draw(100, np.random.default_rng(0)).words) == 18
