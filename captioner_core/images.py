"""Image files to pictures of one size: bytes in, RGB out, or one clear reason why not."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from captioner_core.errors import ImageError
from captioner_core.schemas import ImageRef

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm"),
)
# Pillow's names of the formats that are ever opened, whatever a file is called
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 268_435_456

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
_SIXTEEN_BITS = 65535


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
    data: bytes, *, size: int = 299, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Decodes the first frame of an image, upright and on white, and scales it.

    The aspect ratio is not kept: the network sees the whole image as a square.

    Args:
      data: a file's bytes; what they are is told by them, not by a name.
      size: height and width to scale to, in pixels.
      max_pixels: images with more are refused before any pixel is decoded.

    Returns:
      uint8 [size, size, 3], and the upright image's width and height.

    Raises:
      ImageError: ``empty_file``, ``unsupported_format``, ``too_many_pixels``, ``truncated``
        or ``decode_error``.
    """
    if not data:
        raise ImageError("empty_file", "the file holds no bytes; copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings on odd files are no business of a log
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, max_pixels)
                image.load()
                upright = _upright(image)
                rgb = _to_rgb(upright)
                small = rgb.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
                return np.asarray(small, dtype=np.uint8).copy(), upright.width, upright.height
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("unsupported_format", _unsupported(data)) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"the header asks for too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError("decode_error", "decoding needs more memory than there is") from error
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


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a broken EXIF block says nothing of the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's as RGB: alpha on white, 16 bits and floats scaled rather than cut off."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return _grey(np.asarray(image).astype(np.float64), _SIXTEEN_BITS)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return _grey(values, 1.0 if values.max(initial=0) <= 1 else 255.0 if values.max() <= 255 else values.max())
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", straight.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


def _grey(values: npt.NDArray[np.float64], full: float) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values * (255 / full)), 0, 255).astype(np.uint8)).convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None  # None only comes back for a conversion in place
    return converted


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
