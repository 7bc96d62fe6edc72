"""Decodes image files: from bytes to RGB pixels of one size, or to a thumbnail.

A file that can't be decoded raises an ``ImageError`` with one clear reason.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

from captioner_core.errors import ImageError
from captioner_core.images.file_kinds import is_avif, kind_of, raw_kind_of_tiff
from captioner_core.images.pixels import REDUCING_GAP, shrink, to_rgb_square
from captioner_core.images.repair import with_end_marker, without_optional_parts

if TYPE_CHECKING:  # Decoder processes start often, so they must not load pyarrow.
    from captioner_core.tables.schemas import ImageRef

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm"),
}
FORMATS = tuple(_SUFFIXES)
"""Pillow's names of the only formats that are ever opened, whatever a file's suffix."""
IMAGE_SUFFIXES = tuple(itertools.chain.from_iterable(_SUFFIXES.values()))
DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 268_435_456
DEFAULT_MAX_SECONDS = 60.0
LARGE_PIXELS = 16_000_000
"""Images with more pixels are large: 48 MB or more in RGB, and several times that in wide modes."""

_SUPPORTED_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, little-endian and big-endian
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"\0\0\0\x0cjP  ",  # JPEG 2000, in its container and as a bare codestream
    b"\xff\x4f\xff\x51",
)

# The transposition that makes an image upright, by EXIF orientation (EXIF 2.32, 4.6.4, tag 274).
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8))
_THUMBNAIL_QUALITY = 80
_STRIP_ROWS = 256
_REPAIRABLE = ("decode_error", "truncated")
_CUT_OFF_WORDS = ("truncated", "unexpected end", "eof", "not enough", "premature")

# Pillow's warnings about odd files would only fill the log. They are switched off for good,
# because catch_warnings is not thread-safe and Beam decodes in many threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


Result = TypeVar("Result")
LargeGuard = Callable[[], contextlib.AbstractContextManager[Any]]
"""Returns the context in which a large image is decoded."""
_EnterGuard = Callable[[], object]


class DecodedPixels(NamedTuple):
    """The pixels of an image and its original size.

    Args:
      pixels: uint8 [size, size, 3], RGB.
      width: width of the original, upright image, in pixels.
      height: height of the original, upright image, in pixels.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image that is ready for the network.

    Args:
      ref: id and location of the image.
      sha256: SHA-256 of the file's bytes, in hex.
      width: width of the original, upright image, in pixels.
      height: height of the original, upright image, in pixels.
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
    large_guard: LargeGuard = contextlib.nullcontext,
) -> DecodedPixels:
    """Decodes the first frame of an image, turns it upright, and scales it to a square.

    The aspect ratio is not kept, because the network sees the whole image as a square. Transparent
    areas become white.

    >>> file = io.BytesIO()
    >>> Image.new("L", (40, 30)).save(file, "PNG")
    >>> pixels, width, height = decode(file.getvalue())
    >>> pixels.shape, width, height
    ((299, 299, 3), 40, 30)
    >>> decode(b"%PDF-1.7")
    Traceback (most recent call last):
    captioner_core.errors.ImageError: its content looks like PDF, not an image of a supported format

    Args:
      data: content of the file, whose format is recognized from these bytes alone.
      size: width and height of the result, in pixels.
      max_pixels: largest number of pixels; a larger image is refused before it is decoded.
      large_guard: returns the context in which an image of more than ``LARGE_PIXELS`` is decoded.

    Raises:
      ImageError: ``empty_file``, ``unsupported_format``, ``too_many_pixels``, ``truncated``,
        ``too_much_memory`` or ``decode_error``.
    """
    convert = functools.partial(_convert_to_pixels, size=size)
    return _open_and_convert(data, max_pixels, large_guard, convert)


def make_thumbnail(
    data: bytes,
    side: int,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    large_guard: LargeGuard = contextlib.nullcontext,
) -> tuple[bytes, tuple[int, int]]:
    """Makes a small JPEG of an image: upright, on white, without metadata.

    The aspect ratio is kept.

    Args:
      data: content of the file.
      side: longest side of the thumbnail, in pixels.
      max_pixels: largest number of pixels; a larger image is refused.
      large_guard: returns the context in which an image of more than ``LARGE_PIXELS`` is decoded.

    Returns:
      The JPEG file, and its width and height in pixels.

    Raises:
      ImageError: see ``decode``.
    """
    convert = functools.partial(_convert_to_thumbnail, side=side)
    return _open_and_convert(data, max_pixels, large_guard, convert)


def _convert_to_pixels(image: Image.Image, enter_guard: _EnterGuard, *, size: int) -> DecodedPixels:
    """Returns the pixels of an image whose header has been read."""
    # The draft mode decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is large enough.
    full_size = image.size
    is_reduced = image.draft(None, (REDUCING_GAP * size, REDUCING_GAP * size))
    _enter_if_large(image, enter_guard)
    image.load()
    transposition = _find_transposition(image)
    original_size = full_size if is_reduced else image.size
    if transposition in _SIDEWAYS:
        original_size = original_size[::-1]
    square = to_rgb_square(image, size)
    # Turning the small square instead of the image saves a second copy of all pixels.
    upright = square if transposition is None else square.transpose(transposition)
    return DecodedPixels(np.array(upright, dtype=np.uint8), *original_size)


def _convert_to_thumbnail(
    image: Image.Image, enter_guard: _EnterGuard, *, side: int
) -> tuple[bytes, tuple[int, int]]:
    """Returns the thumbnail of an image whose header has been read."""
    image.draft("RGB", (REDUCING_GAP * side, REDUCING_GAP * side))
    _enter_if_large(image, enter_guard)
    small = shrink(image, side)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return jpeg.getvalue(), small.size


def _open_and_convert(
    data: bytes,
    max_pixels: int,
    large_guard: LargeGuard,
    convert: Callable[[Image.Image, _EnterGuard], Result],
) -> Result:
    """Opens an image and converts it; repairs it first if browsers show it but Pillow refuses it.

    Args:
      data: content of the file.
      max_pixels: largest number of pixels; a larger image is refused.
      large_guard: returns the context that is entered, once, before a large image is decoded.
      convert: converts an image whose header has been read; it calls its second argument before
        it decodes the pixels of a large image.

    Raises:
      ImageError: the image can't be decoded, not even after a repair.
    """
    with contextlib.ExitStack() as stack:
        # The guard is entered once, however many versions of the file are opened.
        enter_guard = functools.cache(lambda: stack.enter_context(large_guard()))

        def attempt(candidate: bytes) -> Result:
            """Opens and converts one version of the file."""
            with _open_image(candidate, max_pixels) as image:
                return convert(image, enter_guard)

        try:
            return attempt(data)
        except ImageError as error:
            if error.error_type not in _REPAIRABLE:
                raise
            failure = error
        if shorter := without_optional_parts(data):
            data = shorter
            try:
                return attempt(data)
            except ImageError as error:
                failure = error
        for ended in with_end_marker(data) if failure.error_type in _REPAIRABLE else ():
            # The picture is complete if the noise in the probe changes nothing; see EndedJpeg.
            digest = _digest_pixels(ended.data, max_pixels, enter_guard)
            if digest == _digest_pixels(ended.probe, max_pixels, enter_guard):
                return attempt(ended.data)
        raise failure


def _enter_if_large(image: Image.Image, enter_guard: _EnterGuard) -> None:
    """Enters the context for large images if this image is one."""
    if image.width * image.height > LARGE_PIXELS:
        enter_guard()


def _digest_pixels(data: bytes, max_pixels: int, enter_guard: _EnterGuard) -> bytes:
    """Returns a digest of all pixels of an image at full size."""
    digest = hashlib.blake2b()
    with _open_image(data, max_pixels) as image:
        _enter_if_large(image, enter_guard)
        image.load()
        # Strips of rows avoid a second copy of a large image.
        for top in range(0, image.height, _STRIP_ROWS):
            strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
            digest.update(strip.tobytes())
    return digest.digest()


@contextlib.contextmanager
def _open_image(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image, reads its header, and turns every error in the block into ``ImageError``."""
    if not data:
        raise ImageError("empty_file", "the file holds no bytes; copy it again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified_error(data) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            "too_many_pixels", f"the header asks for too many pixels ({error})"
        ) from error
    except MemoryError as error:
        raise ImageError(
            "too_much_memory", "decoding it needs more memory than an image may take"
        ) from error
    # A broken file can make Pillow's decoders raise any exception.
    except Exception as error:
        raise _broken_error(error, data) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("decode_error", f"the header gives it {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{width} x {height} pixels are more than the {max_pixels} that --max-pixels allows",
        )


def _find_transposition(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _unidentified_error(data: bytes) -> ImageError:
    if is_avif(data) and not features.check("avif"):
        return ImageError(
            "unsupported_format",
            "its content is AVIF, which the Pillow installed here can't decode; convert it to JPEG",
        )
    raw = raw_kind_of_tiff(data)
    if is_avif(data) or (data.startswith(_SUPPORTED_MAGIC) and raw is None):
        return ImageError(
            "decode_error",
            "it starts like an image of a supported format, "
            "but its header is damaged or of an unknown kind",
        )
    kind = raw or kind_of(data)
    if kind is None:
        message = "its content is no image of a supported format, or its header is damaged"
    else:
        message = f"its content looks like {kind}, not an image of a supported format"
    return ImageError("unsupported_format", message)


def _broken_error(error: Exception, data: bytes) -> ImageError:
    if raw := raw_kind_of_tiff(data):
        return ImageError(
            "unsupported_format",
            f"its content looks like {raw}, not an image of a supported format",
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    if any(word in reason.lower() for word in _CUT_OFF_WORDS):
        return ImageError("truncated", f"the file ends too early ({reason}); copy it again")
    return ImageError("decode_error", f"its pixels can't be decoded ({reason})")
