"""Builds the sample dataset: rendered scenes, each with five captions in the style of Flickr8k.

A scene has a setting, one to three large objects of one kind and colour, and a smaller object of
another kind beside them, so captions tell the images apart. Scene ``i`` of a seed is always the
same, however many images are built.
"""

import random
from pathlib import Path

from captioner_core.console.progress import advance, progress
from captioner_core.datasets.dataset_folder import DatasetSummary, DatasetWriter
from captioner_core.datasets.sample_drawing import COLOURS, OBJECTS, SETTINGS, draw_scene
from captioner_core.datasets.scene import Scene, describe
from captioner_core.errors import CaptionerError

DEFAULT_IMAGES = 800
_MIN_IMAGES = 30
_MAX_IMAGES = 100_000
_LICENCE = "Drawn and written by this program; free for any use."


def options(images: int = DEFAULT_IMAGES, seed: int = 0) -> dict[str, str | int]:
    """Returns the options recorded in dataset.json, which ``is_built`` compares."""
    return {"dataset": "sample", "images": images, "seed": seed}


def make_scene(index: int, seed: int = 0) -> Scene:
    """Returns the scene that image number ``index`` shows."""
    rng = random.Random(f"scene {seed} {index}")  # noqa: S311  pictures, not secrets
    noun, second_noun = rng.sample(sorted(OBJECTS), 2)
    colour, second_colour = rng.sample(sorted(COLOURS), 2)
    return Scene(
        setting=rng.choice(sorted(SETTINGS)),
        noun=noun,
        colour=colour,
        count=rng.choice((1, 1, 2, 3)),
        second_noun=second_noun,
        second_colour=second_colour,
        side=rng.choice(("left", "right")),
    )


def write_captions(index: int, seed: int = 0) -> list[str]:
    """Returns five different captions of image number ``index``."""
    rng = random.Random(f"captions {seed} {index}")  # noqa: S311  captions, not secrets
    return describe(make_scene(index, seed), rng)


def split_of(index: int) -> str:
    """Returns the split of an image: of every ten images, eight are train, one dev and one test."""
    return {8: "dev", 9: "test"}.get(index % 10, "train")


def image_id_of(index: int) -> str:
    """Returns the file name of image number ``index``."""
    return f"scene-{index:05d}.jpg"


def build(
    output: Path, *, images: int = DEFAULT_IMAGES, seed: int = 0, collection: str | None = None
) -> DatasetSummary:
    """Renders the images and writes the dataset folder.

    Args:
      output: the dataset folder.
      images: number of images, 30 to 100,000.
      seed: 0 or more; another seed makes other scenes.
      collection: name of the collection that the images belong to. None means ``sample`` for
        seed 0 and ``sample-SEED`` for others, because a seed gives the same scenes in every folder.

    Raises:
      CaptionerError: there would be too few or too many images, or the seed is negative.
    """
    if not _MIN_IMAGES <= images <= _MAX_IMAGES:
        raise CaptionerError(
            f"the sample can't have {images} images; give {_MIN_IMAGES} to {_MAX_IMAGES}, "
            f"{DEFAULT_IMAGES} is the default"
        )
    if seed < 0:
        raise CaptionerError(f"--seed {seed} must be 0 or more; 0 is the default")
    collection = collection or ("sample" if seed == 0 else f"sample-{seed}")
    writer = DatasetWriter(output, "sample", options(images, seed), _LICENCE, collection=collection)
    writer.check_images(map(image_id_of, range(images)))
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    with writer, progress("sample", images):
        for index in range(images):
            image_id = image_id_of(index)
            rng = random.Random(f"picture {seed} {index}")  # noqa: S311  pictures, not secrets
            draw_scene(make_scene(index, seed), rng).save(writer.stage(image_id), quality=90)
            captions[image_id] = write_captions(index, seed)
            splits[image_id] = split_of(index)
            advance(1)
        return writer.finish(captions, splits)
