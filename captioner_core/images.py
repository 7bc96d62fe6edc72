"""Image files to pictures of one size: bytes in, RGB out, or one clear reason why not."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from captioner_core.errors import ImageError

if TYPE_CHECKING:  # decoder processes, which start often, do without pyarrow
    from captioner_core.schemas import ImageRef

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm"),
)
# Pillow's names of the formats that are ever opened, whatever a file is called
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 268_435_456
DEFAULT_MAX_SECONDS = 60.0

# First bytes of what is often found under an image's name
_LOOKS_LIKE = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"8BPS", "Photoshop"),
)
_SUPPORTED_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)

# How EXIF's orientations are undone (EXIF 2.32, 4.6.4, tag 274)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
LARGE = 16_000_000
"""Pixels, in RGB 48 MB and several times that in wider modes, from which on an image takes much memory."""
_QUALITY = 80  # of thumbnails
_GAP = 2  # how much larger than asked for a picture stays until it is scaled with care
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
_SIXTEEN_TO_EIGHT = np.rint(np.arange(65536) / 257).astype(np.uint8)

# Pillow's warnings on odd files are no business of a log. For good, not around each call:
# catch_warnings is not safe with threads, and Beam decodes in many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image ready for the network.

    Args:
      ref: which it is.
      sha256: of the file's bytes, hex.
      width: of the whole image, upright, in pixels.
      height: likewise.
      pixels: uint8 [size, size, 3], RGB.
    """

    ref: ImageRef
    sha256: str
    width: int
    height: int
    pixels: npt.NDArray[np.uint8]


def decode(
    data: bytes,
    *,
    size: int = 299,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    large: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Decodes the first frame of an image, upright and on white, and scales it.

    The aspect ratio is not kept: the network sees the whole image as a square.

    Args:
      data: a file's bytes; what they are is told by them, not by a name.
      size: height and width to scale to, in pixels.
      max_pixels: images with more are refused before any pixel is decoded.
      large: entered while an image of more than ``LARGE`` pixels is decoded.

    Returns:
      uint8 [size, size, 3], and the upright image's width and height.

    Raises:
      ImageError: ``empty_file``, ``unsupported_format``, ``too_many_pixels``, ``truncated``,
        ``too_much_memory`` or ``decode_error``.
    """
    with _opened(data, max_pixels) as image:
        # a JPEG is decoded at a half, a quarter or an eighth where that leaves twice what is asked for
        whole = image.size
        reduced = image.draft(None, (_GAP * size, _GAP * size))
        with large() if image.width * image.height > LARGE else contextlib.nullcontext():
            image.load()
            turn = _turn_upright(image)
            width, height = whole if reduced else image.size
            if turn in _SIDEWAYS:
                width, height = height, width
            square = _to_rgb_square(image, size)
        # Turned when small: a square stays one, and 100 megapixels need no second copy
        pixels = np.array(square if turn is None else square.transpose(turn), dtype=np.uint8)
        return pixels, width, height


def thumbnail(
    data: bytes,
    side: int,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    large: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[bytes, tuple[int, int]]:
    """A small JPEG of an image in its own proportions, upright, on white, without its metadata.

    Args:
      data: a file's bytes.
      side: longest side of the result, in pixels.
      max_pixels: images with more are refused.
      large: entered while an image of more than ``LARGE`` pixels is decoded.

    Returns:
      The JPEG's bytes, with its width and height.

    Raises:
      ImageError: as ``decode``.
    """
    with _opened(data, max_pixels) as image:
        image.draft("RGB", (_GAP * side, _GAP * side))
        with large() if image.width * image.height > LARGE else contextlib.nullcontext():
            small = _small(image, side)
        result = io.BytesIO()
        small.save(result, "JPEG", quality=_QUALITY, optimize=True)
        return result.getvalue(), small.size


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header has been read; whatever goes wrong in the block becomes an ``ImageError``."""
    if not data:
        raise ImageError("empty_file", "the file holds no bytes; copy it again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"the header asks for too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError("too_much_memory", "decoding it needs more memory than an image may take") from error
    # Pillow's decoders raise whatever a broken file makes them stumble over
    except Exception as error:
        raise _broken(error) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("decode_error", f"the header gives it {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels", f"{width} x {height} pixels are more than the {max_pixels} that --max-pixels allows"
        )


def _turn_upright(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing of the pixels
        return None


def _to_rgb_square(image: Image.Image, size: int) -> Image.Image:
    """Any mode of Pillow's as RGB [size, size]: alpha on white, wide grey scaled rather than cut off."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        # Pillow weighs colours by alpha when it scales RGBA, so hidden colours don't bleed in
        for mode in (_STRAIGHT.get(image.mode, image.mode), "RGBA"):
            image = image if image.mode == mode else image.convert(mode)
        small = _scale(image, size)
        return Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    elif image.mode == "LAB":
        return _lab_to_rgb(_scale(image, size))
    elif image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return _scale(image, size).convert("RGB")


def _scale(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=_GAP)


def _eight_bits(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """16-bit, 32-bit or float grey [height, width] as uint8; floats up to 1, or up to 255, keep that scale."""
    if grey.dtype.kind == "u":
        narrow: npt.NDArray[np.uint8] = _SIXTEEN_TO_EIGHT[grey]
        return narrow
    # float32 and in place: a copy in float64 of 100 megapixels would be 800 MB
    values = np.array(grey, dtype=np.float32)
    if grey.dtype.kind == "f":
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(values.max())
    usual = (1.0, 255.0) if grey.dtype.kind == "f" else (65535.0,)
    values *= 255 / next((full for full in usual if highest <= full), highest)
    np.rint(np.clip(values, 0, 255, out=values), out=values)
    return values.astype(np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None  # None only comes back for a conversion in place
    return converted


def _small(image: Image.Image, side: int) -> Image.Image:
    see_through = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (np.nanmin(values), np.nanmax(values))
        levels = np.nan_to_num((values - low) * (255 / max(high - low, 1e-9)))
        flat = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
        flat.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    else:
        flat = image.convert("RGBA" if see_through else "RGB")
    flat.thumbnail((side, side), reducing_gap=_GAP)
    flat = ImageOps.exif_transpose(flat)
    clean = Image.new("RGB", flat.size, "white")  # a new canvas, so that no comment or profile comes along
    clean.paste(flat, mask=flat.getchannel("A") if flat.mode == "RGBA" else None)
    return clean


def _unidentified(data: bytes) -> ImageError:
    if data.startswith(_SUPPORTED_MAGIC) or data[4:12] in (b"ftypavif", b"ftypavis"):
        said = "it starts like an image of a supported format, but its header is damaged or of a kind unknown"
        return ImageError("decode_error", said)
    return ImageError("unsupported_format", _unsupported(data))


def _unsupported(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    for magic, name in _LOOKS_LIKE:
        if start.startswith(magic.lower()) or data.startswith(magic):
            return f"its content looks like {name}, not an image of a supported format"
    if b"\0" not in data[:512] and data[:512].isascii():
        return "its content looks like text, not an image of a supported format"
    return "its content is no image of a supported format, or its header is damaged"


def _broken(error: Exception) -> ImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    cut_off = any(word in said.lower() for word in ("truncated", "unexpected end", "eof", "not enough", "premature"))
    if cut_off:
        return ImageError("truncated", f"the file ends too early ({said}); copy it again")
    return ImageError("decode_error", f"its pixels can't be decoded ({said})")
