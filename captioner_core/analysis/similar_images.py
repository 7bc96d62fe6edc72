"""Finds the images most similar to one image and draws them side by side."""

import dataclasses
import io
import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from captioner_core.captioning.captioning_models import load_models
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.features.base import INPUT_SIZE
from captioner_core.images import decoder_pool, decoding, listing
from captioner_core.io import outputs
from captioner_core.matching import CaptionIndex, Query, loading
from captioner_core.models.registry import resolve_model
from captioner_core.report.pictures import ImageFinder, Location, thumbnail
from captioner_core.tables.schemas import MatchRow

# Sizes in pixels.
_SIDE = 260
_GAP = 16
_TEXT_SIZE = 15
_LINE_HEIGHT = _TEXT_SIZE + 5
_LINES = 4
_LINE_CHARACTERS = 33
_INK = "#1f2328"
_FAINT = "#59636e"


@dataclasses.dataclass(frozen=True)
class SimilarImages:
    """The images most similar to one image.

    Args:
      path: path of the image.
      caption: the caption that the model gave it.
      matches: the images whose score reaches the threshold, best first.
      locations: where the image of each match is; None if that is not known.
      nearest: the most similar other image, whether or not its score reaches the threshold; None
        if there is nothing to compare with.
    """

    path: str
    caption: str
    matches: Sequence[MatchRow]
    locations: Sequence[Location | None]
    nearest: MatchRow | None


class SimilarImageFinder:
    """Finds similar images for one image after another, with models that are loaded once.

    Args:
      model: a model folder; a folder of models, whose current model is used; or ``pretrained``.
      index: the captions tables to search.
      encoder: name of the text encoder.

    Raises:
      CaptionerError: the model, the weights or a table is missing or damaged.
    """

    def __init__(self, model: str, index: Sequence[str], encoder: str) -> None:
        self._models = load_models("xception", resolve_model(model), beam_width=None)
        self._tables = tuple(index)
        self._index: CaptionIndex = loading.load_index(index, encoder)

    def find(self, path: str, *, threshold: float, top_k: int) -> SimilarImages:
        """Returns the indexed images most similar to an image, without the image itself.

        Args:
          path: path of the image.
          threshold: the lowest score of a match.
          top_k: the number of matches to return at most.

        Raises:
          CaptionerError: the file cannot be used as an image.
        """
        try:
            data = listing.read_bytes(path, decoding.DEFAULT_MAX_BYTES)
            pixels, _, _ = decoder_pool.decode(data, size=INPUT_SIZE)
        except ImageError as error:
            raise CaptionerError(f"image {path!r} can't be used: {error.message}") from error
        (caption,) = self._models.caption(pixels[np.newaxis]).captions
        query = Query(path, (caption.text,))
        # One more than asked for, because the index may contain the image itself.
        matches, _ = self._index.search([query], threshold=-1.0, top_k=top_k + 1)
        rows = [MatchRow(**row) for row in matches.to_pylist()]
        finder = ImageFinder(self._tables, [row.match_image_id for row in rows], ())
        located = [
            (row, finder.location(row.match_image_id, row.match_caption, row.match_collection))
            for row in rows
        ]
        others = [(row, location) for row, location in located if not _is_file(location, path)]
        reached = [pair for pair in others if pair[0].score >= np.float32(threshold)][:top_k]
        return SimilarImages(
            path=path,
            caption=caption.text,
            matches=[
                dataclasses.replace(row, rank=rank)
                for rank, (row, _) in enumerate(reached, start=1)
            ],
            locations=[location for _, location in reached],
            nearest=others[0][0] if others else None,
        )


def _is_file(location: Location | None, path: str) -> bool:
    try:
        return isinstance(location, bytes) and os.path.samefile(location, path)
    except OSError:
        return False


class _Tile(NamedTuple):
    """An image in the picture with the texts below it."""

    location: Location | None
    title: str
    caption: str


def write_picture(found: SimilarImages, target: str) -> None:
    """Draws an image and its matches side by side, each with its caption and score, as a PNG.

    The PNG names captioner as the program that made it, so that captioner may replace it later.

    Args:
      found: the image and its matches.
      target: path of the PNG.

    Raises:
      CaptionerError: the file cannot be written, or exists and captioner did not make it.
    """
    tiles = [
        _Tile(os.fsencode(found.path), "this image", found.caption),
        *(
            _Tile(location, f"{row.rank}: {row.score:.3f}", row.match_caption)
            for row, location in zip(found.matches, found.locations, strict=True)
        ),
    ]
    height = _SIDE + (_LINES + 1) * _LINE_HEIGHT + 2 * _GAP
    canvas = Image.new("RGB", (len(tiles) * (_SIDE + _GAP) + _GAP, height), "white")
    for number, tile in enumerate(tiles):
        _draw_tile(canvas, tile, left=_GAP + number * (_SIDE + _GAP))
    metadata = PngInfo()
    metadata.add_text(outputs.PNG_SOFTWARE, outputs.PROGRAM)
    try:
        with outputs.replacing(
            target, is_own=outputs.is_own_picture, makes_parents=True
        ) as temporary:
            canvas.save(temporary, "PNG", pnginfo=metadata)
    except OSError as error:
        raise CaptionerError(
            f"picture {target!r} cannot be written ({error}); choose another --output"
        ) from error


def _draw_tile(canvas: Image.Image, tile: _Tile, left: int) -> None:
    """Draws a tile whose left edge is at ``left``; an image that cannot be opened is a box."""
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_TEXT_SIZE)
    made = thumbnail(tile.location, _SIDE) if tile.location is not None else None
    if made is None:
        draw.rectangle((left, _GAP, left + _SIDE, _GAP + _SIDE), outline=_FAINT)
        draw.text((left + 12, _GAP + 12), "no picture", _FAINT, font)
    else:
        jpeg, (width, height) = made
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as small:
            canvas.paste(small, (left + (_SIDE - width) // 2, _GAP + (_SIDE - height) // 2))
    top = _GAP + _SIDE + 8
    draw.text((left, top), tile.title, _FAINT, font)
    for number, line in enumerate(textwrap.wrap(tile.caption, _LINE_CHARACTERS)[:_LINES], start=1):
        draw.text((left, top + number * _LINE_HEIGHT), line, _INK, font)


def check_picture(target: str, inputs: outputs.Inputs) -> None:
    """Refuses, before any work, a picture that captioner may not write.

    Args:
      target: path of the picture.
      inputs: the paths that are to be read, by the option that names them.

    Raises:
      CaptionerError: the file may not be written; see ``outputs.check_output_file``.
    """
    outputs.check_output_file(
        target, is_own=outputs.is_own_picture, inputs=inputs, makes_parents=True
    )
