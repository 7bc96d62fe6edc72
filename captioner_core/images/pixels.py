"""Converts the pixels of opened images: any mode becomes RGB on white, of a given size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

REDUCING_GAP = 2
"""Cheap reduction stops at this multiple of the target size; the rest is scaled with care."""
_MODES_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_UNMULTIPLIED_MODES = {"La": "LA", "RGBa": "RGBA"}
_SIXTEEN_TO_EIGHT_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)


def to_rgb_square(image: Image.Image, size: int) -> Image.Image:
    """Returns an image of any mode as RGB, scaled to [size, size].

    Transparent areas become white. Grey values of more than 8 bits are scaled, not clipped.

    >>> to_rgb_square(Image.new("RGBA", (4, 3), (255, 0, 0, 0)), 1).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb_square(Image.new("I;16", (4, 3), 65535 // 5), 1).getpixel((0, 0))
    (51, 51, 51)
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    elif image.mode in _MODES_WITH_ALPHA or "transparency" in image.info:
        # Pillow weights colours by alpha when it scales RGBA, so hidden colours don't bleed in.
        for mode in (_UNMULTIPLIED_MODES.get(image.mode, image.mode), "RGBA"):
            image = image if image.mode == mode else image.convert(mode)
        small = _scale(image, size)
        return Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    elif image.mode == "LAB":
        return _lab_to_rgb(_scale(image, size))
    elif image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return _scale(image, size).convert("RGB")


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Returns an image as RGB with sides of at most ``side``: upright, on white, no metadata.

    >>> shrink(Image.new("L", (400, 300)), side=100).size
    (100, 75)
    """
    if image.mode.startswith(("I", "F")):
        flat = _wide_grey_to_rgb(image)
    else:
        flat = image.convert("RGBA" if image.has_transparency_data else "RGB")
    flat.thumbnail((side, side), reducing_gap=REDUCING_GAP)
    flat = ImageOps.exif_transpose(flat)
    # Comments and profiles don't follow the pixels to a new canvas.
    canvas = Image.new("RGB", flat.size, "white")
    canvas.paste(flat, mask=flat.getchannel("A") if flat.mode == "RGBA" else None)
    return canvas


def _scale(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def _to_eight_bits(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns 16-bit, 32-bit or float grey values [height, width] as uint8.

    White is 65535 for integers, and 1 or 255 for floats, whichever is large enough. If no such
    value is large enough, the highest value becomes white.
    """
    if grey.dtype.kind == "u":
        narrow: npt.NDArray[np.uint8] = _SIXTEEN_TO_EIGHT_BITS[grey]
        return narrow
    # float32, changed in place: a float64 copy of 100 megapixels would take 800 MB.
    values = np.array(grey, dtype=np.float32)
    if grey.dtype.kind == "f":
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(values.max())
    usual_whites = (1.0, 255.0) if grey.dtype.kind == "f" else (65535.0,)
    values *= 255 / next((white for white in usual_whites if highest <= white), highest)
    np.rint(np.clip(values, 0, 255, out=values), out=values)
    return values.astype(np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    rgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None  # only a conversion in place returns None
    return converted


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Returns a grey image of more than 8 bits as RGB with the same orientation.

    The full range of 16 bits is used, and of wider modes the range of the values in the image.
    """
    values = np.asarray(image, np.float64)
    low = 0.0
    high = 65535.0
    if not image.mode.startswith("I;16"):
        low = float(np.nanmin(values))
        high = float(np.nanmax(values))
    levels = np.nan_to_num((values - low) * (255 / max(high - low, 1e-9)))
    rgb = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    orientation = ExifTags.Base.Orientation
    rgb.getexif()[orientation] = image.getexif().get(orientation, 1)
    return rgb
