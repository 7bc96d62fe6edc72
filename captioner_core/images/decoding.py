"""Image files to pictures of one size: bytes in, RGB out, or one clear reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from captioner_core.errors import ImageError
from captioner_core.images.file_kinds import is_avif, kind_of, raw_kind_of_tiff
from captioner_core.images.repair import with_end_marker, without_optional_parts

if TYPE_CHECKING:  # decoder processes, which start often, do without pyarrow
    from captioner_core.tables.schemas import ImageRef

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm"),
)
# Pillow's names of the formats that are ever opened, whatever a file is called
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 268_435_456
DEFAULT_MAX_SECONDS = 60.0

_SUPPORTED_MAGIC = (
    *(
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF87a",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"MM\0+",
    ),
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
_STRIP_ROWS = 256
_MENDABLE = ("decode_error", "truncated")
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
_SIXTEEN_TO_EIGHT = np.rint(np.arange(65536) / 257).astype(np.uint8)

# Pillow's warnings on odd files are no business of a log. For good, not around each call:
# catch_warnings is not safe with threads, and Beam decodes in many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


Made = TypeVar("Made")
EnterLarge = Callable[[Image.Image], None]
"""Prepares for an image that takes much memory, before its pixels are decoded."""


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

    def make(image: Image.Image, enter_large: EnterLarge) -> tuple[npt.NDArray[np.uint8], int, int]:
        # a JPEG is decoded at a half, a quarter or an eighth where that leaves twice what is asked for
        whole = image.size
        reduced = image.draft(None, (_GAP * size, _GAP * size))
        enter_large(image)
        image.load()
        turn = _turn_upright(image)
        width, height = whole if reduced else image.size
        if turn in _SIDEWAYS:
            width, height = height, width
        square = _to_rgb_square(image, size)
        # Turned when small: a square stays one, and 100 megapixels need no second copy
        pixels = np.array(square if turn is None else square.transpose(turn), dtype=np.uint8)
        return pixels, width, height

    return _read(data, max_pixels, large, make)


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

    def make(image: Image.Image, enter_large: EnterLarge) -> tuple[bytes, tuple[int, int]]:
        image.draft("RGB", (_GAP * side, _GAP * side))
        enter_large(image)
        small = _small(image, side)
        result = io.BytesIO()
        small.save(result, "JPEG", quality=_QUALITY, optimize=True)
        return result.getvalue(), small.size

    return _read(data, max_pixels, large, make)


def _read(
    data: bytes,
    max_pixels: int,
    large: Callable[[], AbstractContextManager[Any]],
    make: Callable[[Image.Image, EnterLarge], Made],
) -> Made:
    """Returns what is made of an image; of one that Pillow refuses and browsers show, once it is mended.

    Args:
      data: a file's bytes.
      max_pixels: images with more are refused.
      large: entered once, before an image of more than ``LARGE`` pixels is decoded.
      make: makes the result of an image whose header has been read.

    Raises:
      ImageError: the image can't be decoded, mended or not.
    """
    with contextlib.ExitStack() as entered:
        has_entered = False

        def enter_large(image: Image.Image) -> None:
            nonlocal has_entered
            if image.width * image.height > LARGE and not has_entered:
                has_entered = True
                entered.enter_context(large())

        def attempt(some: bytes) -> Made:
            with _opened(some, max_pixels) as image:
                return make(image, enter_large)

        try:
            return attempt(data)
        except ImageError as error:
            if error.error_type not in _MENDABLE:
                raise
            failure = error
        if shorter := without_optional_parts(data):
            data = shorter
            try:
                return attempt(data)
            except ImageError as error:
                failure = error
        for ended in with_end_marker(data) if failure.error_type in _MENDABLE else ():
            if _pixels_digest(ended.data, max_pixels, enter_large) == _pixels_digest(
                ended.probe, max_pixels, enter_large
            ):
                return attempt(ended.data)
        raise failure


def _pixels_digest(data: bytes, max_pixels: int, enter_large: EnterLarge) -> bytes:
    """Returns a digest of all pixels at full size; of some rows at a time, since an image may be large."""
    digest = hashlib.blake2b()
    with _opened(data, max_pixels) as image:
        enter_large(image)
        image.load()
        for top in range(0, image.height, _STRIP_ROWS):
            strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
            digest.update(strip.tobytes())
    return digest.digest()


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
        raise ImageError(
            "too_many_pixels", f"the header asks for too many pixels ({error})"
        ) from error
    except MemoryError as error:
        raise ImageError(
            "too_much_memory", "decoding it needs more memory than an image may take"
        ) from error
    # Pillow's decoders raise whatever a broken file makes them stumble over
    except Exception as error:
        raise _broken(error, data) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("decode_error", f"the header gives it {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{width} x {height} pixels are more than the {max_pixels} that --max-pixels allows",
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
        low, high = (
            (0.0, 65535.0)
            if image.mode.startswith("I;16")
            else (np.nanmin(values), np.nanmax(values))
        )
        levels = np.nan_to_num((values - low) * (255 / max(high - low, 1e-9)))
        flat = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
        flat.getexif()[ExifTags.Base.Orientation] = image.getexif().get(
            ExifTags.Base.Orientation, 1
        )
    else:
        flat = image.convert("RGBA" if see_through else "RGB")
    flat.thumbnail((side, side), reducing_gap=_GAP)
    flat = ImageOps.exif_transpose(flat)
    clean = Image.new(
        "RGB", flat.size, "white"
    )  # a new canvas, so that no comment or profile comes along
    clean.paste(flat, mask=flat.getchannel("A") if flat.mode == "RGBA" else None)
    return clean


def _unidentified(data: bytes) -> ImageError:
    if is_avif(data) and not features.check("avif"):
        return ImageError(
            "unsupported_format",
            "its content is AVIF, which the Pillow installed here can't decode; convert it to JPEG",
        )
    raw = raw_kind_of_tiff(data)
    if is_avif(data) or (data.startswith(_SUPPORTED_MAGIC) and raw is None):
        said = "it starts like an image of a supported format, but its header is damaged or of a kind unknown"
        return ImageError("decode_error", said)
    kind = raw or kind_of(data)
    if kind is None:
        said = "its content is no image of a supported format, or its header is damaged"
    else:
        said = f"its content looks like {kind}, not an image of a supported format"
    return ImageError("unsupported_format", said)


def _broken(error: Exception, data: bytes) -> ImageError:
    if raw := raw_kind_of_tiff(data):
        return ImageError(
            "unsupported_format",
            f"its content looks like {raw}, not an image of a supported format",
        )
    said = " ".join(str(error).split()) or type(error).__name__
    cut_off = any(
        word in said.lower()
        for word in ("truncated", "unexpected end", "eof", "not enough", "premature")
    )
    if cut_off:
        return ImageError("truncated", f"the file ends too early ({said}); copy it again")
    return ImageError("decode_error", f"its pixels can't be decoded ({said})")
