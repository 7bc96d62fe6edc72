"""Image files as users have them, good and bad, and what must become of each."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

CAPTION = "caption"
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (20, 40, 220),
    "grey": (128, 128, 128),
}
NAMES = (
    "with space.jpg",
    "line\nbreak.jpg",
    "quo\"te's.jpg",
    "żółw 🐢.jpg",
    "UPPER.JPG",
    ".hidden.jpg",
    "deep/er/nested.jpg",
)


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Returns a picture with a colourful gradient."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], axis=2).astype(
        np.uint8
    )
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Returns an image as the bytes of a file of this kind, such as ``"JPEG"``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    """Returns a chunk of a PNG.

    Args:
      name: the four bytes of its type.
      data: its content.
      length: the number of bytes that its header states; None states the true number.
    """
    size = len(data) if length is None else length
    return struct.pack(">I", size) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(side: int = 30_000) -> bytes:
    """Returns a valid PNG of black pixels, one bit each.

    Args:
      side: width and height in pixels. 30,000 take 112 MB in memory and a few kB in the file.
    """
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    compressed = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", compressed)
        + png_chunk(b"IEND", b"")
    )


def good_files() -> dict[str, bytes]:
    """Returns the bytes of files that are images, however unusual, by file name."""
    rgb = picture()
    grey16 = Image.fromarray((np.linspace(0, 65535, 64 * 48).reshape(48, 64)).astype(np.uint16))
    frames = [picture(), picture().rotate(180), picture().rotate(90)]
    files = {
        "plain.jpg": encoded(rgb, "JPEG"),
        "progressive.jpeg": encoded(rgb, "JPEG", progressive=True),
        "grey.jpe": encoded(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "lab.tif": encoded(_lab(rgb), "TIFF"),
        "sixteen bits.png": encoded(grey16, "PNG"),
        "sixteen bits.tiff": encoded(grey16, "TIFF"),
        "sixteen bits.pgm": encoded(grey16, "PPM"),
        "float.tif": encoded(
            Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)), "TIFF"
        ),
        "palette.png": encoded(rgb.convert("P"), "PNG"),
        "palette with hole.png": encoded(rgb.convert("P"), "PNG", transparency=3),
        "palette.gif": encoded(rgb.convert("P"), "GIF", transparency=0),
        "alpha.png": encoded(rgb.convert("RGBA"), "PNG"),
        "grey alpha.png": encoded(rgb.convert("LA"), "PNG"),
        "one bit.png": encoded(rgb.convert("1"), "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "several pages.tif": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "two pictures.jpg": encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
        "plain.bmp": encoded(rgb, "BMP"),
        "plain.ppm": encoded(rgb, "PPM"),
        "plain.avif": encoded(rgb, "AVIF"),
        "plain.jp2": encoded(rgb, "JPEG2000"),
        "really a png.jpg": encoded(rgb, "PNG"),
        "one pixel.png": encoded(picture(size=(1, 1)), "PNG"),
        "very wide.png": encoded(picture(size=(5000, 1)), "PNG"),
        "broken exif.jpg": encoded(rgb, "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"orientation {orientation}.jpg"] = encoded(rgb, "JPEG", exif=exif)
    return files | dict.fromkeys(NAMES, files["plain.jpg"])


def bad_files() -> dict[str, tuple[bytes, str | None]]:
    """Returns the bytes of files that cannot be decoded, and the error type of each, by file name.

    None stands for any error type.
    """
    jpeg = encoded(picture(), "JPEG")
    png = encoded(picture(), "PNG")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return {
        "empty.jpg": (b"", "empty_file"),
        "zeros.jpg": (bytes(2000), "unsupported_format"),
        "text.jpg": (b"hello, this is a text file\n" * 40, "unsupported_format"),
        "postscript.jpg": (encoded(picture(), "EPS"), "unsupported_format"),
        "document.png": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(500), "unsupported_format"),
        "page.gif": (
            b"<!DOCTYPE html><html><script>alert(1)</script></html>",
            "unsupported_format",
        ),
        "icon.png": (encoded(picture(size=(16, 16)), "ICO"), "unsupported_format"),
        "head only.jpg": (jpeg[:20], None),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "half.png": (encoded(Image.fromarray(noise), "PNG")[:4000], "truncated"),
        "half.tif": (encoded(Image.fromarray(noise), "TIFF")[:5000], None),
        "half.webp": (encoded(Image.fromarray(noise), "WEBP")[:1500], None),
        "damaged.png": (png[:60] + bytes(20) + png[80:], None),
        "huge.png": (huge_png(), "too_many_pixels"),
    }


def make_hostile_folder(folder: Path) -> dict[str, str | None]:
    """Fills a folder with good files, bad files, links and other entries.

    Returns:
      For each image id, ``caption`` or the error type of its failure; None stands for any error
        type.
      Entries that must be passed over are not in it.
    """
    expected: dict[str, str | None] = {}
    for name, data in good_files().items():
        _write(folder / name, data)
        expected[name] = CAPTION
    for name, (data, error_type) in bad_files().items():
        _write(folder / name, data)
        expected[name] = error_type
    with open(os.fsencode(folder) + b"/not utf-8 \xff.jpg", "wb") as file:
        file.write(good_files()["plain.jpg"])
    expected["not utf-8 \\xff.jpg"] = CAPTION
    (folder / "link inside.jpg").symlink_to("plain.jpg")
    expected["link inside.jpg"] = CAPTION
    _write(folder / "locked.jpg", good_files()["plain.jpg"])
    (folder / "locked.jpg").chmod(0)
    expected["locked.jpg"] = CAPTION if os.access(folder / "locked.jpg", os.R_OK) else "unreadable"
    _write(folder.parent / "outside" / "secret.jpg", good_files()["plain.jpg"])
    (folder / "link outside.jpg").symlink_to(folder.parent / "outside" / "secret.jpg")
    (folder / "folder outside").symlink_to(folder.parent / "outside")
    (folder / "loop").symlink_to(folder)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "notes.txt").write_text("not an image")
    (folder / "no suffix").write_bytes(good_files()["plain.jpg"])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    return expected


# Links: two that lead outside, of them one to a folder; two that lead back to themselves; one to
# nothing. Other entries: two files without an image's suffix, and a pipe.
PASSED_OVER = 8


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _lab(image: Image.Image) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    lab = ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert converted is not None
    return converted
