"""Several hundred damaged and malicious image files, the same ones for the same seed.

Most are made from a small valid image of each supported format: cut off at many points, with
flipped bits, or with wrong sizes in the header. Others expand to huge images, are valid in two
formats at once, have an unsupported format, or have names that attack shells, pages or parsers.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.image_files import encoded, huge_png, picture, png_chunk

SEED = 7
# Pillow's names of the supported formats, with a file name suffix of each.
FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "PPM": "ppm",
}
# Unsupported formats that Pillow can write.
_OTHERS = (
    "DDS",
    "EPS",
    "ICNS",
    "ICO",
    "IM",
    "MSP",
    "PCX",
    "PDF",
    "SGI",
    "SPIDER",
    "TGA",
    "XBM",
    "BLP",
    "DIB",
)
_CUTS = 12
_FLIPS = 14


def hostile_files(seed: int = SEED) -> dict[str, bytes]:
    """Returns the contents of the files by file name."""
    rng = random.Random(seed)
    files: dict[str, bytes] = {}
    for kind, suffix in FORMATS.items():
        damaged = [*_cut(kind), *_flipped(kind, rng), *_lying(kind), *_spliced(kind, rng)]
        for number, data in enumerate(damaged):
            files[f"{kind.lower()}-{number:03d}.{suffix}"] = data
    files |= {f"other-{kind.lower()}.jpg": _other(kind) for kind in _OTHERS}
    files |= dict(_written_by_hand())
    files |= dict(_bombs())
    files |= dict(_polyglots())
    files |= dict.fromkeys(_NAMES, encoded(picture(), "JPEG"))
    return files


def _good(kind: str) -> bytes:
    """Returns a valid image of 53 x 37 random pixels."""
    noise = np.random.default_rng(1).integers(0, 255, (37, 53, 3), np.uint8)
    image = Image.fromarray(noise)
    return encoded(image.convert("P") if kind == "GIF" else image, kind)


def _cut(kind: str) -> Iterator[bytes]:
    """Yields the beginning of a valid image, in several lengths."""
    data = _good(kind)
    for number in range(_CUTS):
        yield data[: 1 + (len(data) - 2) * number // (_CUTS - 1)]


def _flipped(kind: str, rng: random.Random) -> Iterator[bytes]:
    """Yields a valid image with one to four flipped bits, in every second one near the header."""
    data = _good(kind)
    for number in range(_FLIPS):
        damaged = bytearray(data)
        for _ in range(1 + number % 4):
            offset = rng.randrange(min(len(data), 96 if number % 2 else len(data)))
            damaged[offset] ^= 1 << rng.randrange(8)
        yield bytes(damaged)


def _spliced(kind: str, rng: random.Random) -> Iterator[bytes]:
    """Yields a valid image with a random part removed, doubled, overwritten or moved."""
    data = _good(kind)
    for number in range(6):
        start, end = sorted((rng.randrange(8, len(data)), rng.randrange(8, len(data))))
        part = data[start:end]
        replacements = (
            b"",
            part * 2,
            bytes(len(part)),
            b"\xff" * len(part),
            part[::-1],
            b"\0" + part,
        )
        yield data[:start] + replacements[number] + data[end:]


def _lying(kind: str) -> Iterator[bytes]:
    """Yields a valid image whose header has another value in place of the width."""
    data = _good(kind)
    for code in ("<H", ">H", "<I", ">I"):
        for value in (0, 1, (1 << 8 * struct.calcsize(code)) - 1):
            offset = data.find(struct.pack(code, 53), 0, 400)
            if offset >= 0:
                yield _replaced(data, offset, struct.pack(code, value))
    if kind == "PPM":
        for header in (
            b"P6 -1 37 255\n",
            b"P6 53 99999999999999999999 255\n",
            b"P6 53 37 0\n",
            b"P6 53 37 70000\n",
            b"P6\n#" + b"x" * 70_000,
        ):
            yield header + data[13:]


def _other(kind: str) -> bytes:
    """Returns an image in an unsupported format."""
    image = picture(size=(64, 64))
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F", "BLP": "P"}.get(kind)
    return encoded(image.convert(mode) if mode else image, kind)


def _written_by_hand() -> Iterator[tuple[str, bytes]]:
    """Yields files that are no images, although their names say so."""
    yield "fits.jpg", b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)
    yield "wmf.jpg", b"\xd7\xcd\xc6\x9a" + bytes(200)
    yield "emf.png", b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(200)
    yield "fli.gif", bytes(4) + b"\x11\xaf\x02\0" + bytes(200)
    yield "psd.jpg", b"8BPS\0\1" + bytes(200)
    yield (
        "svg.png",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    )
    yield "xpm.png", b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #fff", "a"};'
    yield (
        "postscript.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
    )
    yield "script.jpg", b"#!/bin/sh\ntouch /tmp/owned\n"
    yield (
        "pickle.png",
        b"\x80\x04\x95\x1e\0\0\0\0\0\0\0"
        b"\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    )
    yield "elf.jpg", b"\x7fELF\x02\x01\x01" + bytes(300)
    yield "hdf.jp2", b"\x89HDF\r\n\x1a\n" + bytes(300)
    yield "zeros.avif", bytes(100_000)
    yield "ones.webp", b"\xff" * 100_000
    yield "newlines.gif", b"\n" * 100_000
    yield "one byte.png", b"\x89"
    for number in range(16):
        yield f"noise-{number}.jpg", b"\xff\xd8\xff" + np.random.default_rng(number).bytes(2000)


def _png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """Returns a PNG with further chunks, whose header may claim another size than 8 x 8."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes((1 + 3 * 8) * 8)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Yields small files that would expand to much memory or work."""
    yield "bomb.png", huge_png()
    for side in (2**16, 2**31 - 1, 2**32 - 1):
        yield f"bomb-{side}.png", _png(width=side, height=side)
    inflates = zlib.compress(bytes(300 << 20), 9)
    yield "bomb-text.png", _png(png_chunk(b"zTXt", b"Comment\0\0" + inflates))
    yield "bomb-profile.png", _png(png_chunk(b"iCCP", b"icc\0\0" + inflates))
    yield "bomb-international.png", _png(png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + inflates))
    yield "many-chunks.png", _png(png_chunk(b"tEXt", b"a\0b") * 60_000)
    yield "endless-chunk.png", _png(png_chunk(b"tEXt", b"a\0b", length=2**31 - 1))
    yield "bomb.jpg", _with_size(encoded(picture(), "JPEG"), 65_500, 65_500)
    yield (
        "bomb-progressive.jpg",
        _with_size(encoded(picture(), "JPEG", progressive=True), 9_900, 9_900),
    )
    yield "many-scans.jpg", _many_scans()
    frames = [picture("P", (16, 16)).rotate(turn) for turn in range(360)]
    yield "many-frames.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames * 8)
    yield (
        "large-screen.gif",
        _replaced(encoded(picture("P"), "GIF"), 6, struct.pack("<HH", 65_535, 65_535)),
    )
    yield "bomb.webp", encoded(Image.new("RGB", (16_000, 6_200)), "WEBP", quality=1, method=0)
    yield "bomb.tif", encoded(Image.new("1", (10_001, 10_000)), "TIFF", compression="group4")
    yield "endless-directory.tif", b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 8)
    yield (
        "many-tags.tif",
        b"II*\0\x08\0\0\0\xff\xff" + b"\x0e\x01\x02\0\xff\xff\xff\xff\x08\0\0\0" * 5_000,
    )
    yield (
        "bomb.bmp",
        _replaced(encoded(picture(), "BMP"), 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)),
    )
    yield (
        "negative.bmp",
        _replaced(encoded(picture(), "BMP"), 18, struct.pack("<ii", -64, -(2**31))),
    )
    yield "bomb.ppm", b"P6 60000 60000 255\n"
    yield "plain-bomb.ppm", b"P3 9000 9000 255\n" + b"1 " * 1000
    yield "bomb.pgm", b"P5 99999 99999 65535\n" + bytes(1000)
    yield "bomb.jp2", _jpeg2000_of(60_000, 60_000)
    yield "many-tiles.jp2", _jpeg2000_of(9_000, 9_000, tile=1)


def _replaced(data: bytes, offset: int, value: bytes) -> bytes:
    """Returns the data with the bytes at an offset overwritten."""
    return data[:offset] + value + data[offset + len(value) :]


def _with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """Returns a JPEG whose frame header claims another size."""
    frame_markers = (b"\xff\xc0", b"\xff\xc2")
    frame = next(start for start in range(len(jpeg)) if jpeg[start : start + 2] in frame_markers)
    return _replaced(jpeg, frame + 5, struct.pack(">HH", height, width))


def _many_scans() -> bytes:
    """Returns a progressive JPEG with a thousand copies of its last scan.

    A decoder goes over the whole image for each scan.
    """
    data = _with_size(encoded(picture(), "JPEG", progressive=True), 4_000, 4_000)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 1_000 + data[-2:]


def _jpeg2000_of(width: int, height: int, tile: int | None = None) -> bytes:
    """Returns a JPEG 2000 code stream whose SIZ marker claims another size and tile size."""
    data = encoded(picture(), "JPEG2000", no_jp2=True)
    offset = data.index(b"\xff\x51") + 6
    data = _replaced(data, offset, struct.pack(">II", width, height))
    return _replaced(data, offset + 16, struct.pack(">II", tile or width, tile or height))


def _polyglots() -> Iterator[tuple[str, bytes]]:
    """Yields files that are valid in two formats."""
    jpeg = encoded(picture("RGB"), "JPEG")
    png = encoded(picture("RGB"), "PNG")
    gif = encoded(picture("P"), "GIF")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../../escaped.txt", "out")
    yield "zip-behind.jpg", jpeg + archive.getvalue()
    yield "zip-before.jpg", archive.getvalue() + jpeg
    yield "html-behind.gif", gif + b"<script>alert(1)</script>"
    yield "script-comment.gif", gif[:13] + b"\x21\xfe\x1a<script>alert(1)</script> \0" + gif[13:]
    yield "pdf-behind.png", png + b"%PDF-1.7\n1 0 obj<</JS(app.alert(1))>>endobj\n"
    yield "pdf-before.png", b"%PDF-1.7\n" + png
    yield "jpeg-then-png.jpg", jpeg + png
    yield "png-in-jpeg.jpg", jpeg[:20] + png + jpeg[20:]
    yield "php.jpg", jpeg[:-2] + b"<?php system($_GET[0]); ?>" + jpeg[-2:]
    yield "gif-that-is-script.gif", b"GIF89a/*" + bytes(40) + b"*/=1;alert(1)"


_NAMES = (
    "<script>alert(1)<script>.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "'; DROP TABLE captions; --.jpg",
    "=cmd|' ⁄C calc'!A0.jpg",
    "+1+1.jpg",
    "@SUM(1).jpg",
    "-2+3.jpg",
    "$(touch owned).jpg",
    "`touch owned`.jpg",
    "%2e%2e%2fpasswd.jpg",
    "..%00.jpg",
    "...jpg",
    "~root.jpg",
    "-rf.jpg",
    "--output=x.jpg",
    "{{7*7}}.jpg",
    "${jndi:ldap:x}.jpg",
    "\x1b[2Jred\x1b[31m.jpg",
    "bell\x07.jpg",
    "right-to-left \u202egpj.exe.jpg",
    "zero\u200bwidth.jpg",
    "tab\there.jpg",
    "carriage\rreturn.jpg",
    "back\\slash.jpg",
    "*?[a].jpg",
    "null.jpg",
    "NaN.jpg",
    "CON.jpg",
    "e\u0301.jpg",
    "\u00e9.jpg",
    "x" * 250 + ".jpg",
    " .jpg",
)
