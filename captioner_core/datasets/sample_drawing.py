"""Draws the scenes of the sample dataset."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from captioner_core.datasets.scene import Scene

WIDTH = 320
HEIGHT = 240
_SCALE = 2  # Pictures are drawn at twice the size and then reduced, which smooths the edges.

Colour = tuple[int, int, int]

COLOURS: Mapping[str, Colour] = {
    "red": (214, 40, 40),
    "blue": (38, 84, 200),
    "yellow": (246, 206, 40),
    "black": (28, 28, 30),
    "white": (245, 245, 240),
    "pink": (240, 110, 180),
}


class Pen:
    """Draws in a unit square that lies anywhere on a picture; its y axis points upwards.

    All coordinates and lengths that the methods take are fractions of the square's side.

    Args:
      draw: the picture's drawing interface.
      left: x of the square's left edge, in pixels.
      ground: y of the square's lower edge, in pixels.
      size: the square's side, in pixels.
      flip: whether to mirror the drawing from left to right.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, left: float, ground: float, size: float, flip: bool = False
    ) -> None:
        self._draw = draw
        self._left = left
        self._ground = ground
        self._size = size
        self._flip = flip

    def _point(self, x: float, y: float) -> tuple[float, float]:
        return self._left + (1 - x if self._flip else x) * self._size, self._ground - y * self._size

    def _box(self, x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
        x0, y0 = self._point(x, y)
        x1, y1 = self._point(x + width, y + height)
        return [(min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))]

    def oval(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: Colour | None,
        line: Colour | None = None,
    ) -> None:
        """Draws an ellipse, filled, outlined or both; ``x`` and ``y`` are its lower left corner."""
        thickness = max(1, round(self._size * 0.035))
        self._draw.ellipse(self._box(x, y, width, height), fill=fill, outline=line, width=thickness)

    def box(
        self, x: float, y: float, width: float, height: float, fill: Colour, radius: float = 0.0
    ) -> None:
        """Draws a filled rectangle whose corners are rounded by ``radius``."""
        self._draw.rounded_rectangle(
            self._box(x, y, width, height), radius=radius * self._size, fill=fill
        )

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """Draws a filled polygon."""
        self._draw.polygon([self._point(x, y) for x, y in points], fill=fill)

    def line(self, points: list[tuple[float, float]], fill: Colour, width: float = 0.03) -> None:
        """Draws a line through the points."""
        pixels = [self._point(x, y) for x, y in points]
        self._draw.line(pixels, fill=fill, width=max(1, round(width * self._size)), joint="curve")


DARK = (40, 40, 44)
GLASS = (190, 220, 235)
WOOD = (122, 82, 48)


def shaded(colour: Colour, factor: float) -> Colour:
    """Returns a colour made darker (factor below 1) or lighter (factor above 1)."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def _is_bright(colour: Colour) -> bool:
    return sum(colour) > 120


def _dog(pen: Pen, colour: Colour) -> None:
    shade = shaded(colour, 0.72) if _is_bright(colour) else (70, 70, 76)
    for x in (0.16, 0.28, 0.56, 0.68):
        pen.box(x, 0.0, 0.08, 0.34, shade, 0.03)
    pen.line([(0.16, 0.5), (0.06, 0.62), (0.03, 0.78)], colour, 0.06)
    pen.oval(0.1, 0.26, 0.68, 0.34, colour)
    pen.shape([(0.62, 0.42), (0.8, 0.42), (0.84, 0.74), (0.66, 0.74)], colour)
    pen.oval(0.62, 0.58, 0.28, 0.28, colour)
    pen.oval(0.8, 0.6, 0.19, 0.14, colour)
    pen.oval(0.93, 0.66, 0.06, 0.06, DARK if _is_bright(colour) else (150, 150, 150))
    pen.oval(0.62, 0.54, 0.11, 0.28, shade)
    pen.oval(0.79, 0.73, 0.04, 0.05, DARK if _is_bright(colour) else (235, 235, 235))


def _bear(pen: Pen, colour: Colour) -> None:
    shade = shaded(colour, 0.72) if _is_bright(colour) else (74, 74, 80)
    ink = DARK if _is_bright(colour) else (225, 225, 225)
    for x in (0.16, 0.6):
        pen.oval(x, 0.72, 0.24, 0.24, colour)
        pen.oval(x + 0.06, 0.78, 0.12, 0.12, shade)
    pen.oval(0.2, 0.02, 0.6, 0.54, colour)
    pen.oval(0.33, 0.08, 0.34, 0.34, shade)
    for x in (0.08, 0.72):
        pen.oval(x, 0.22, 0.2, 0.26, colour)
    for x in (0.16, 0.58):
        pen.oval(x, 0.0, 0.26, 0.17, colour)
    pen.oval(0.18, 0.42, 0.64, 0.5, colour)
    pen.oval(0.36, 0.46, 0.28, 0.22, shade)
    pen.oval(0.45, 0.58, 0.1, 0.08, ink)
    for x in (0.34, 0.58):
        pen.oval(x, 0.68, 0.08, 0.09, ink)


def _car(pen: Pen, colour: Colour) -> None:
    pen.shape([(0.2, 0.34), (0.32, 0.58), (0.7, 0.58), (0.84, 0.34)], colour)
    pen.shape([(0.27, 0.36), (0.35, 0.53), (0.49, 0.53), (0.49, 0.36)], GLASS)
    pen.shape([(0.53, 0.36), (0.53, 0.53), (0.67, 0.53), (0.77, 0.36)], GLASS)
    pen.box(0.02, 0.12, 0.96, 0.25, colour, 0.07)
    pen.box(0.02, 0.12, 0.96, 0.05, shaded(colour, 0.6))
    pen.oval(0.91, 0.24, 0.07, 0.08, (255, 240, 170))
    for x in (0.14, 0.66):
        pen.oval(x, 0.0, 0.22, 0.22, DARK)
        pen.oval(x + 0.06, 0.06, 0.1, 0.1, (190, 190, 190))


def _truck(pen: Pen, colour: Colour) -> None:
    shade = shaded(colour, 0.6) if _is_bright(colour) else (78, 78, 84)
    pen.box(0.0, 0.14, 0.66, 0.6, colour, 0.02)
    for x in (0.1, 0.22, 0.34, 0.46, 0.58):
        pen.line([(x, 0.16), (x, 0.72)], shade, 0.012)
    pen.shape([(0.69, 0.14), (0.69, 0.6), (0.86, 0.6), (0.99, 0.36), (0.99, 0.14)], colour)
    pen.shape([(0.73, 0.38), (0.73, 0.54), (0.83, 0.54), (0.92, 0.38)], GLASS)
    pen.box(0.0, 0.1, 0.99, 0.05, shade)
    for x in (0.08, 0.28, 0.74):
        pen.oval(x, 0.0, 0.2, 0.2, DARK)
        pen.oval(x + 0.06, 0.06, 0.08, 0.08, (190, 190, 190))


def _boat(pen: Pen, colour: Colour) -> None:
    pen.line([(0.5, 0.2), (0.5, 1.0)], WOOD, 0.03)
    pen.shape([(0.53, 0.3), (0.53, 0.97), (0.92, 0.3)], colour)
    pen.shape([(0.47, 0.3), (0.47, 0.86), (0.16, 0.3)], shaded(colour, 0.85))
    pen.shape([(0.02, 0.24), (0.98, 0.24), (0.82, 0.02), (0.18, 0.02)], WOOD)
    pen.shape([(0.02, 0.24), (0.98, 0.24), (0.95, 0.19), (0.05, 0.19)], shaded(WOOD, 1.35))


def _house(pen: Pen, colour: Colour) -> None:
    pen.box(0.12, 0.0, 0.76, 0.56, (236, 222, 196))
    pen.box(0.68, 0.62, 0.1, 0.3, (150, 90, 70))
    pen.shape([(0.0, 0.54), (0.5, 1.0), (1.0, 0.54)], colour)
    pen.box(0.42, 0.0, 0.16, 0.32, colour)
    pen.oval(0.53, 0.14, 0.03, 0.03, (230, 190, 60))
    for x in (0.19, 0.65):
        pen.box(x, 0.24, 0.16, 0.18, GLASS)
        pen.line([(x + 0.08, 0.24), (x + 0.08, 0.42)], WOOD, 0.015)


def _balloon(pen: Pen, colour: Colour) -> None:
    pen.line([(0.5, 0.36), (0.46, 0.24), (0.54, 0.12), (0.5, 0.0)], (90, 90, 90), 0.015)
    pen.oval(0.22, 0.38, 0.56, 0.62, colour)
    pen.shape([(0.46, 0.34), (0.54, 0.34), (0.5, 0.41)], colour)
    pen.oval(0.32, 0.7, 0.12, 0.18, shaded(colour, 1.5) if sum(colour) < 600 else (255, 255, 255))


def _umbrella(pen: Pen, colour: Colour) -> None:
    pen.line([(0.5, 0.95), (0.5, 0.1), (0.53, 0.03), (0.6, 0.03), (0.63, 0.12)], WOOD, 0.035)
    dome = [
        (0.5 + 0.5 * float(np.cos(a)), 0.5 + 0.46 * float(np.sin(a)))
        for a in np.linspace(0, np.pi, 40)
    ]
    scallops = [
        (x0 + 0.25 * t, 0.5 + 0.07 * float(np.sin(np.pi * t)))
        for x0 in (0.0, 0.25, 0.5, 0.75)
        for t in np.linspace(0, 1, 10)
    ]
    pen.shape([*dome, *scallops], colour)
    line = shaded(colour, 0.6) if _is_bright(colour) else (110, 110, 116)
    for x in (0.25, 0.5, 0.75):
        pen.line([(0.5, 0.96), (x, 0.52)], line, 0.015)


def _ball(pen: Pen, colour: Colour) -> None:
    white = (250, 250, 250) if colour != COLOURS["white"] else (120, 120, 125)
    pen.oval(0.1, 0.0, 0.8, 0.8, colour)
    pen.line([(0.12, 0.5), (0.35, 0.6), (0.65, 0.6), (0.88, 0.5)], white, 0.06)
    pen.line([(0.12, 0.3), (0.35, 0.2), (0.65, 0.2), (0.88, 0.3)], white, 0.06)
    pen.oval(0.1, 0.0, 0.8, 0.8, None, shaded(colour, 0.5))


def _flower(pen: Pen, colour: Colour) -> None:
    stem = (46, 130, 60)
    pen.line([(0.5, 0.0), (0.5, 0.6)], stem, 0.045)
    pen.shape([(0.5, 0.12), (0.22, 0.2), (0.14, 0.36), (0.36, 0.3)], stem)
    pen.shape([(0.5, 0.18), (0.78, 0.24), (0.86, 0.42), (0.64, 0.34)], stem)
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
        pen.oval(
            0.5 + 0.19 * float(np.cos(angle)) - 0.13,
            0.7 + 0.19 * float(np.sin(angle)) - 0.13,
            0.26,
            0.26,
            colour,
        )
    pen.oval(
        0.39, 0.59, 0.22, 0.22, (240, 170, 40) if colour != COLOURS["yellow"] else (150, 90, 40)
    )


OBJECTS: Mapping[str, Callable[[Pen, Colour], None]] = {
    "dog": _dog,
    "bear": _bear,
    "car": _car,
    "truck": _truck,
    "boat": _boat,
    "house": _house,
    "balloon": _balloon,
    "umbrella": _umbrella,
    "ball": _ball,
    "flower": _flower,
}


def _sky(draw: ImageDraw.ImageDraw, width: int, horizon: int, top: Colour, bottom: Colour) -> None:
    for y in range(horizon):
        share = y / horizon
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        draw.line([(0, y), (width, y)], fill=(red, green, blue))


def _beach(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = round(height * 0.3)
    shore = round(height * 0.52)
    _sky(draw, width, horizon, (110, 190, 240), (200, 232, 250))
    draw.rectangle([0, horizon, width, shore], fill=(30, 140, 190))
    for _ in range(14):
        x = rng.uniform(0, width)
        y = rng.uniform(horizon + 6, shore - 6)
        draw.arc([x, y, x + 50, y + 10], 180, 360, fill=(200, 236, 248), width=2)
    draw.rectangle([0, shore, width, height], fill=(232, 208, 150))
    draw.rectangle([0, shore - 3, width, shore + 5], fill=(246, 250, 250))


def _snow(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = round(height * 0.45)
    _sky(draw, width, horizon, (150, 172, 196), (214, 224, 234))
    for x in (0.05, 0.4, 0.7):
        peak = (x + rng.uniform(0, 0.2)) * width
        half = rng.uniform(0.2, 0.3) * width
        top = rng.uniform(0.08, 0.2) * height
        draw.polygon(
            [(peak - half, horizon), (peak, top), (peak + half, horizon)], fill=(112, 128, 150)
        )
        draw.polygon(
            [
                (peak - half / 3, top + (horizon - top) / 3),
                (peak, top),
                (peak + half / 3, top + (horizon - top) / 3),
            ],
            fill="white",
        )
    draw.rectangle([0, horizon, width, height], fill=(226, 234, 244))
    for _ in range(70):
        x = rng.uniform(0, width)
        y = rng.uniform(0, height)
        draw.ellipse([x, y, x + 6, y + 6], fill="white")


def _meadow(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = round(height * 0.42)
    _sky(draw, width, horizon, (120, 184, 236), (212, 236, 250))
    for _ in range(3):
        x = rng.uniform(0, width * 0.8)
        y = rng.uniform(10, horizon * 0.5)
        for dx, dy in ((0, 10), (30, 0), (64, 10)):
            draw.ellipse([x + dx, y + dy, x + dx + 56, y + dy + 30], fill=(250, 252, 255))
    draw.rectangle([0, horizon, width, height], fill=(86, 168, 68))
    for _ in range(260):
        x = rng.uniform(0, width)
        y = rng.uniform(horizon + 8, height)
        draw.line([(x, y), (x + rng.uniform(-4, 4), y - 12)], fill=(56, 136, 50), width=2)


def _street(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = round(height * 0.55)
    _sky(draw, width, horizon, (196, 204, 212), (224, 228, 230))
    x = 0.0
    while x < width:
        house_width = rng.uniform(80, 130)
        top = rng.uniform(0.02, 0.25) * height
        tone = rng.choice([(150, 110, 90), (128, 122, 120), (170, 150, 124), (110, 100, 106)])
        draw.rectangle([x, top, x + house_width, horizon], fill=tone)
        for wx in range(int(x) + 12, int(x + house_width) - 18, 28):
            for wy in range(int(top) + 14, horizon - 24, 36):
                draw.rectangle([wx, wy, wx + 14, wy + 20], fill=(222, 214, 160))
        x += house_width + 4
    draw.rectangle([0, horizon, width, height], fill=(92, 92, 98))
    draw.rectangle([0, horizon, width, horizon + 16], fill=(170, 168, 164))
    for x in range(10, width, 120):
        draw.rectangle(
            [x, round(height * 0.86), x + 60, round(height * 0.88)], fill=(240, 240, 235)
        )


def _night(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    horizon = round(height * 0.6)
    _sky(draw, width, horizon, (8, 10, 40), (36, 40, 92))
    for _ in range(60):
        x = rng.uniform(0, width)
        y = rng.uniform(0, horizon)
        size = rng.uniform(1, 4)
        draw.ellipse([x, y, x + size, y + size], fill=(250, 246, 214))
    x = rng.uniform(0.05, 0.85) * width
    draw.ellipse([x, 20, x + 60, 80], fill=(250, 244, 200))
    draw.rectangle([0, horizon, width, height], fill=(58, 70, 84))


SETTINGS: Mapping[str, Callable[[ImageDraw.ImageDraw, int, int, random.Random], None]] = {
    "beach": _beach,
    "snow": _snow,
    "meadow": _meadow,
    "street": _street,
    "night": _night,
}


class _Area(NamedTuple):
    """The part of a picture in which one object is drawn.

    Args:
      left: x of the left edge, in pixels.
      ground: y of the lower edge, in pixels.
      size: width and height, in pixels.
    """

    left: float
    ground: float
    size: float


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """Returns a 320 x 240 picture of a scene; positions, sizes, shades and grain are random."""
    width = WIDTH * _SCALE
    height = HEIGHT * _SCALE
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    SETTINGS[scene.setting](draw, width, height, rng)
    # The smaller object takes one side of the picture; the main objects share the rest.
    small_size = 0.44 * height * rng.uniform(0.9, 1.1)
    room = width * 0.93 - small_size
    if scene.side == "left":
        small_left = width * 0.02
        first_left = small_size + width * 0.05
    else:
        small_left = width * 0.98 - small_size
        first_left = width * 0.02
    share = room / scene.count
    size = min(share, 0.72 * height) * rng.uniform(0.88, 0.98)
    for number in range(scene.count):
        left = first_left + room * number / scene.count + (share - size) * rng.uniform(0.2, 0.8)
        area = _Area(left, height * rng.uniform(0.86, 0.97), size)
        _draw_object(draw, scene.noun, scene.colour, area, rng)
    area = _Area(small_left, height * rng.uniform(0.84, 0.95), small_size)
    _draw_object(draw, scene.second_noun, scene.second_colour, area, rng)
    return _add_grain(image, rng)


def _draw_object(
    draw: ImageDraw.ImageDraw, noun: str, colour: str, area: _Area, rng: random.Random
) -> None:
    left, ground, size = area
    shadow = [left + size * 0.1, ground - size * 0.05, left + size * 0.9, ground + size * 0.05]
    draw.ellipse(shadow, fill=(70, 74, 80))
    pen = Pen(draw, left, ground, size, flip=rng.random() < 0.5)
    OBJECTS[noun](pen, shaded(COLOURS[colour], rng.uniform(0.92, 1.04)))


def _add_grain(image: Image.Image, rng: random.Random) -> Image.Image:
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, 4, (HEIGHT, WIDTH, 1))
    brightness = rng.uniform(0.92, 1.06)
    pixels = np.asarray(blurred) * brightness + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
