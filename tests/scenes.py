"""What the captions of the sample's scenes name."""

from __future__ import annotations

from captioner_core.datasets.scene import Scene
from captioner_core.text.vocabulary import tokenize


def names_both_objects(caption: str, scene: Scene) -> bool:
    """Returns whether a caption names both kinds of object in a scene, singular or plural."""
    words = set(tokenize(caption))
    return all(words & {noun, f"{noun}s"} for noun in (scene.noun, scene.second_noun))
