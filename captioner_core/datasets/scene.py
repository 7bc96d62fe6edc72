"""Describes the scenes of the sample dataset: what a picture shows, and captions for it."""

import random
from dataclasses import dataclass

CAPTIONS_PER_SCENE = 5

_NUMBERS = ("", "a", "two", "three")
_SETTING_PHRASES = {
    "beach": ("on the beach", "on a wide beach", "by the sea on the beach"),
    "snow": ("in the snow", "on the snow", "in deep snow"),
    "meadow": ("in a green meadow", "on the meadow", "in the meadow"),
    "street": ("on a city street", "on the street", "in the street"),
    "night": ("at night", "under the stars at night", "in the dark night"),
}
# Each verb in the singular and the plural
_VERBS = (("is", "are"), ("can be seen", "can be seen"), ("stands out", "stand out"))


@dataclass(frozen=True)
class Scene:
    """The content of one picture: a setting, the main objects, and a smaller object beside them.

    Args:
      setting: the background, such as ``beach``.
      noun: the kind of the main objects, such as ``dog``.
      colour: the colour of the main objects.
      count: the number of main objects, 1 to 3.
      second_noun: the kind of the smaller object.
      second_colour: the colour of the smaller object.
      side: the side on which the viewer sees the smaller object, ``left`` or ``right``.
    """

    setting: str
    noun: str
    colour: str
    count: int
    second_noun: str
    second_colour: str
    side: str

    @property
    def main(self) -> str:
        """The main objects as a phrase, such as "two red dogs"."""
        noun = _plural(self.noun) if self.count > 1 else self.noun
        return f"{_article(self.count, self.colour)} {self.colour} {noun}"

    @property
    def second(self) -> str:
        """The smaller object as a phrase, such as "a blue ball"."""
        return f"{_article(1, self.second_colour)} {self.second_colour} {self.second_noun}"


def describe(scene: Scene, rng: random.Random) -> list[str]:
    """Returns five different captions of a scene, worded at random."""
    main = scene.main
    second = scene.second
    is_plural = scene.count > 1
    verb = rng.choice(_VERBS)[is_plural]
    be = "are" if is_plural else "is"
    phrases = _SETTING_PHRASES[scene.setting]
    where, where_else, elsewhere = (rng.choice(phrases) for _ in range(3))
    templates = [
        f"{main} and {second} {where} .",
        f"{main} {verb} next to {second} {where_else} .",
        f"{main} with {second} on the {scene.side} {elsewhere} .",
        f"there {be} {main} beside {second} {where} .",
        f"{where_else} there {be} {main} and {second} .",
        f"{second} is near {main} {elsewhere} .",
        f"a picture of {main} next to {second} {where} .",
        f"{main} {where_else} , and {second} to the {scene.side} .",
    ]
    captions = rng.sample(templates, CAPTIONS_PER_SCENE)
    return [caption[0].upper() + caption[1:] for caption in captions]


def _plural(noun: str) -> str:
    return noun + "s"


def _article(count: int, colour: str) -> str:
    if count == 1 and colour[0] in "aeiou":
        return "an"
    return _NUMBERS[count]
