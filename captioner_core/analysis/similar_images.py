"""The images most similar to one image, as rows and as one picture."""

from __future__ import annotations

import dataclasses
import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.features.base import load_backbone
from captioner_core.images import decoder_pool, decoding
from captioner_core.images.listing import read_bytes
from captioner_core.io import outputs
from captioner_core.matching import CaptionIndex, Query
from captioner_core.matching.loading import load_index
from captioner_core.models.registry import resolve_model
from captioner_core.report.pictures import ImageFinder, Location, thumbnail
from captioner_core.tables.schemas import MatchRow

_SIDE, _GAP, _TEXT_SIZE, _LINES, _LINE_CHARACTERS = 260, 16, 15, 4, 33
_INK, _FAINT = "#1f2328", "#59636e"


@dataclass(frozen=True)
class SimilarImages:
    """What was found for one image.

    Args:
      path: of the image.
      caption: that it was given.
      matches: best first.
      locations: where the image of each match is, as far as that is known.
      nearest: the best other image, whether it is a match or fell short; None where nothing is comparable.
    """

    path: str
    caption: str
    matches: Sequence[MatchRow]
    locations: Sequence[Location | None]
    nearest: MatchRow | None


class SimilarImageFinder:
    """Answers one image after another; everything is loaded once.

    Args:
      model: model folder, a folder of models, of which its current one is meant, or ``pretrained``.
      index: captions tables to search.
      encoder: name of the encoder.

    Raises:
      CaptionerError: model, weights or a table are missing or damaged.
    """

    def __init__(self, model: str, index: Sequence[str], encoder: str) -> None:
        model = resolve_model(model)
        loaded = load_model(model)
        self._backbone = load_backbone("xception")
        if loaded.config.backbone != self._backbone.name:
            raise CaptionerError(
                f"model {model!r} was trained on features of {loaded.config.backbone!r}, not {self._backbone.name!r}; "
                "train it again on today's features"
            )
        self._generator = CaptionGenerator(loaded)
        self._tables = tuple(index)
        self._index: CaptionIndex = load_index(index, encoder)

    def find(self, path: str, *, threshold: float, top_k: int) -> SimilarImages:
        """The images of the index most similar to one; the image itself is none of them.

        Raises:
          CaptionerError: the file can't be used as an image.
        """
        try:
            data = read_bytes(path, decoding.DEFAULT_MAX_BYTES)
            pixels, _, _ = decoder_pool.decode(data, size=self._backbone.input_size)
        except ImageError as error:
            raise CaptionerError(f"image {path!r} can't be used: {error.message}") from error
        (caption,) = self._generator.generate(*self._backbone.features(pixels[np.newaxis]))
        query = Query(path, (caption.text,))
        matches, _ = self._index.search([query], threshold=-1.0, top_k=top_k + 1)
        found = [MatchRow(**row) for row in matches.to_pylist()]
        finder = ImageFinder(self._tables, [row.match_image_id for row in found], ())
        located = [
            (row, finder.location(row.match_image_id, row.match_caption, row.match_collection))
            for row in found
        ]
        others = [(row, location) for row, location in located if not _is_file(location, path)]
        reached = [pair for pair in others if pair[0].score >= np.float32(threshold)][:top_k]
        rows = [
            dataclasses.replace(row, rank=rank) for rank, (row, _) in enumerate(reached, start=1)
        ]
        nearest = others[0][0] if others else None
        return SimilarImages(
            path, caption.text, rows, [location for _, location in reached], nearest
        )


def _is_file(location: Location | None, path: str) -> bool:
    try:
        return isinstance(location, bytes) and os.path.samefile(location, path)
    except OSError:
        return False


def write_picture(found: SimilarImages, target: str) -> None:
    """The image and its matches side by side, each with its caption and score, as a PNG.

    The PNG states captioner as the software that made it, so that it is known later.

    Raises:
      CaptionerError: the file can't be written, or exists and captioner did not make it.
    """
    tiles: list[tuple[Location | None, str, str]] = [
        (os.fsencode(found.path), "this image", found.caption)
    ]
    for row, location in zip(found.matches, found.locations, strict=True):
        tiles.append((location, f"{row.rank}: {row.score:.3f}", row.match_caption))
    height = _SIDE + (_LINES + 1) * (_TEXT_SIZE + 5) + 2 * _GAP
    canvas = Image.new("RGB", (len(tiles) * (_SIDE + _GAP) + _GAP, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_SIZE)
    for number, (location, title, caption) in enumerate(tiles):
        left = _GAP + number * (_SIDE + _GAP)
        made = thumbnail(location, _SIDE) if location is not None else None
        if made is None:
            draw.rectangle((left, _GAP, left + _SIDE, _GAP + _SIDE), outline=_FAINT)
            draw.text((left + 12, _GAP + 12), "no picture", _FAINT, font)
        else:
            jpeg, (width, tall) = made
            with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as small:
                canvas.paste(small, (left + (_SIDE - width) // 2, _GAP + (_SIDE - tall) // 2))
        below = _GAP + _SIDE + 8
        draw.text((left, below), title, _FAINT, font)
        lines = textwrap.wrap(caption, _LINE_CHARACTERS)[:_LINES]
        for line_number, line in enumerate(lines, start=1):
            draw.text((left, below + line_number * (_TEXT_SIZE + 5)), line, _INK, font)
    made_by = PngInfo()
    made_by.add_text(outputs.PNG_SOFTWARE, outputs.PROGRAM)
    try:
        with outputs.replacing(
            target, is_own=outputs.is_own_picture, makes_parents=True
        ) as temporary:
            canvas.save(temporary, "PNG", pnginfo=made_by)
    except OSError as error:
        raise CaptionerError(
            f"picture {target!r} can't be written ({error}); name another --output"
        ) from error


def check_picture(target: str, inputs: outputs.Inputs) -> None:
    """Refuses, before any work, a picture that may not be written; changes nothing.

    Raises:
      CaptionerError: see ``outputs.check_output_file``.
    """
    outputs.check_output_file(
        target, is_own=outputs.is_own_picture, inputs=inputs, makes_parents=True
    )
