"""A dataset made here: rendered scenes, each with five captions in the manner of Flickr8k.

A scene has a setting, one to three large objects of a kind and colour, and a smaller object
of another kind beside them, so one image is told from another by its caption. Scene ``i`` of
a seed is the same however many are made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner_core.console.progress import advance, progress
from captioner_core.datasets.base import DatasetSummary, DatasetWriter
from captioner_core.datasets.sample_drawing import COLOURS, OBJECTS, SETTINGS, draw_scene
from captioner_core.errors import CaptionerError
from captioner_core.text.vocabulary import tokenize

DEFAULT_IMAGES = 800
CAPTIONS_EACH = 5
_FEWEST, _MOST = 30, 100_000

_NUMBERS = ("", "a", "two", "three")
_IN_SETTING = {
    "beach": ("on the beach", "on a wide beach", "by the sea on the beach"),
    "snow": ("in the snow", "on the snow", "in deep snow"),
    "meadow": ("in a green meadow", "on the meadow", "in the meadow"),
    "street": ("on a city street", "on the street", "in the street"),
    "night": ("at night", "under the stars at night", "in the dark night"),
}
_VERBS = (("is", "are"), ("can be seen", "can be seen"), ("stands out", "stand out"))


@dataclass(frozen=True)
class Scene:
    """What a picture shows; ``side`` is where the second object lies as one looks at it."""

    setting: str
    noun: str
    colour: str
    count: int
    second_noun: str
    second_colour: str
    side: str

    @property
    def main(self) -> str:
        """The main objects as in "two red dogs"."""
        return f"{_article(self.count, self.colour)} {self.colour} {_plural(self.noun) if self.count > 1 else self.noun}"

    @property
    def second(self) -> str:
        """The second object as in "a blue ball"."""
        return f"{_article(1, self.second_colour)} {self.second_colour} {self.second_noun}"


def options(images: int = DEFAULT_IMAGES, seed: int = 0) -> dict[str, Any]:
    """What a dataset built with these arguments says that it was asked for."""
    return {"dataset": "sample", "images": images, "seed": seed}


def scene(index: int, seed: int = 0) -> Scene:
    """What image number ``index`` shows."""
    chance = random.Random(f"scene {seed} {index}")  # noqa: S311  pictures, not secrets
    noun, second_noun = chance.sample(sorted(OBJECTS), 2)
    colour, second_colour = chance.sample(sorted(COLOURS), 2)
    return Scene(
        setting=chance.choice(sorted(SETTINGS)),
        noun=noun,
        colour=colour,
        count=chance.choice((1, 1, 2, 3)),
        second_noun=second_noun,
        second_colour=second_colour,
        side=chance.choice(("left", "right")),
    )


def captions(index: int, seed: int = 0) -> list[str]:
    """Five captions of image number ``index``, no two alike."""
    shown = scene(index, seed)
    chance = random.Random(f"captions {seed} {index}")  # noqa: S311
    main, second, many = shown.main, shown.second, shown.count > 1
    where = _IN_SETTING[shown.setting]
    verb = chance.choice(_VERBS)[many]
    one, two, three = (chance.choice(where) for _ in range(3))
    templates = [
        f"{main} and {second} {one} .",
        f"{main} {verb} next to {second} {two} .",
        f"{main} with {second} on the {shown.side} {three} .",
        f"there {'are' if many else 'is'} {main} beside {second} {one} .",
        f"{two[0].upper()}{two[1:]} there {'are' if many else 'is'} {main} and {second} .",
        f"{second} {'is'} near {main} {three} .",
        f"a picture of {main} next to {second} {one} .",
        f"{main} {two} , and {second} to the {shown.side} .",
    ]
    chosen = chance.sample(templates, CAPTIONS_EACH)
    return [text[0].upper() + text[1:] for text in chosen]


def names_right_things(caption: str, shown: Scene) -> bool:
    """Whether a caption names both kinds of object that a scene shows, in the singular or plural."""
    words = set(tokenize(caption))
    return all(words & {noun, _plural(noun)} for noun in (shown.noun, shown.second_noun))


def split_of(index: int) -> str:
    """Eight of ten images are for training, one for choosing, one for the new folder."""
    return {8: "dev", 9: "test"}.get(index % 10, "train")


def image_id_of(index: int) -> str:
    """The file name of image number ``index``."""
    return f"scene-{index:05d}.jpg"


def build(
    output: Path, *, images: int = DEFAULT_IMAGES, seed: int = 0, collection: str | None = None
) -> DatasetSummary:
    """Renders a dataset.

    Args:
      output: the dataset folder.
      images: how many, 30 to 100,000.
      seed: another seed makes other scenes.
      collection: name of the collection that the images belong to; ``sample`` where None, and of another
        seed than 0 ``sample-SEED``, since scenes of one seed are the same in every folder.

    Raises:
      CaptionerError: too few or too many images, or a negative seed.
    """
    if not _FEWEST <= images <= _MOST:
        raise CaptionerError(
            f"{images} images of the sample are not {_FEWEST} to {_MOST}; 800 is the default"
        )
    if seed < 0:
        raise CaptionerError(f"--seed {seed} must be 0 or more; 0 is the default")
    collection = collection or ("sample" if seed == 0 else f"sample-{seed}")
    licence = "Drawn and written by this program; free for any use."
    writer = DatasetWriter(output, "sample", options(images, seed), licence, collection=collection)
    written, splits = {}, {}
    writer.check_images(map(image_id_of, range(images)))
    with writer, progress("sample", images):
        for index in range(images):
            image_id = image_id_of(index)
            picture = draw_scene(scene(index, seed), random.Random(f"picture {seed} {index}"))  # noqa: S311
            picture.save(writer.stage(image_id), quality=90)
            written[image_id], splits[image_id] = captions(index, seed), split_of(index)
            advance(1)
        return writer.finish(written, splits)


def _plural(noun: str) -> str:
    return noun + "s"


def _article(count: int, colour: str) -> str:
    if count == 1 and colour[0] in "aeiou":
        return "an"
    return _NUMBERS[count]
