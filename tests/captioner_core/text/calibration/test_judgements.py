"""Judgements of people are read as they are, and compared with what an encoder says."""

from __future__ import annotations

import numpy as np
import pytest

from captioner_core.errors import CaptionerError
from captioner_core.text.calibration.judgements import (
    half_of,
    read_expert_judgements,
    read_judgements,
)
from tests.fakes import HashedWords


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of judgements of three images."""
    (tmp_path / "captions.csv").write_text(
        "image_id,caption_index,caption\na,0,red dog\na,1,two dog\nb,0,blue cat\nc,0,red dog\n"
    )
    (tmp_path / "crowd.csv").write_text(
        "image_id,caption_image_id,caption_index,yes_share\n"
        "a,a,0,1.0\na,b,0,0.0\na,c,0,0.75\nb,a,1,0.25\n"
    )
    return tmp_path


def test_judgements_of_other_images_captions_are_read(folder):
    judgements = read_judgements(str(folder))
    assert judgements.images == ["a", "a", "b"]
    assert judgements.texts == ["blue cat", "red dog", "two dog"]
    assert judgements.yes_shares.tolist() == [0.0, 0.75, 0.25]
    assert judgements.captions["a"] == ["red dog", "two dog"]


def test_the_grades_of_experts_are_averaged(folder):
    (folder / "expert.csv").write_text(
        "image_id,caption_image_id,caption_index,grade_1,grade_2,grade_3\na,b,0,1,1,4\na,a,0,4,4,4\n"
    )
    judgements = read_expert_judgements(str(folder))
    assert judgements.texts == ["blue cat"]
    assert judgements.yes_shares.tolist() == [2.0]


def test_a_caption_is_compared_with_the_nearest_caption_of_the_image(folder):
    encoder = HashedWords()
    cosines = read_judgements(str(folder)).cosines(encoder)
    blue_cat, red_dog, two_dog = encoder.encode(["blue cat", "red dog", "two dog"])
    expected = [max(blue_cat @ red_dog, blue_cat @ two_dog), 1, blue_cat @ two_dog]
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_each_image_is_in_one_half(folder):
    judgements = read_judgements(str(folder))
    halves = [judgements.half(number) for number in (0, 1)]
    assert sum(len(half.images) for half in halves) == len(judgements.images)
    for number, half in enumerate(halves):
        assert all(half_of(image) == number for image in half.images)
        assert len(half.cosines(HashedWords())) == len(half.yes_shares)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("crowd.csv", "image_id,caption_image_id,caption_index,yes_share\na,b,7,0.5\n"),
        ("crowd.csv", "image_id,caption_image_id,caption_index,yes_share\na,b,0,often\n"),
        ("captions.csv", "image_id,caption\na,dog\n"),
    ],
)
def test_damaged_judgements_are_refused_in_one_line(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(
        CaptionerError, match=r"name a folder with captions\.csv and crowd\.csv"
    ) as caught:
        read_judgements(str(folder))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CaptionerError, match="can't be read"):
        read_judgements(str(tmp_path))
