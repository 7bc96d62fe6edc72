"""Image files that browsers show are decoded; other files are named by what they are.

The files are damaged or unusual in ways that do not change the picture, or they are no images.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin, features

from captioner_core.errors import ImageError
from captioner_core.images import decoder_pool
from captioner_core.images.decoding import decode
from tests.image_files import encoded, picture, png_chunk

PNG = encoded(picture(), "PNG")
PIXELS = decode(PNG)[0]
JPEG_KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 10},
    "no subsampling": {"subsampling": 0},
}


def photo(size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Returns a picture with detail everywhere except in its lower third, which is white."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image.paste("white", (0, size[1] * 2 // 3, *size))
    return image


def with_chunk(chunk: bytes, *, behind: bool = False, png: bytes = PNG) -> bytes:
    """Returns a PNG with one more chunk, after its header or before its end.

    Args:
      chunk: the chunk.
      behind: whether the chunk comes before the end.
      png: the PNG.
    """
    position = len(png) - 12 if behind else 33
    return png[:position] + chunk + png[position:]


def with_wrong_checksum(chunk: bytes) -> bytes:
    """Returns a chunk of a PNG with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 0x55])


def failure_of(data: bytes) -> ImageError:
    """Returns the error with which decoding fails."""
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


LARGE_TEXT = b"workflow" * 400_000
LARGE_CHUNKS = {
    "plain text": png_chunk(b"tEXt", b"workflow\0" + LARGE_TEXT),
    "packed text": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LARGE_TEXT)),
    "international text": png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LARGE_TEXT)),
    "XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE_TEXT)),
    "profile": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE_TEXT)),
    "more text than all texts may have": b"".join(
        png_chunk(b"tEXt", b"part%d\0" % number + bytes(1_000_000)) for number in range(70)
    ),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("name", LARGE_CHUNKS)
def test_a_png_with_megabytes_of_text_or_profile_is_decoded(name, behind):
    np.testing.assert_array_equal(decode(with_chunk(LARGE_CHUNKS[name], behind=behind))[0], PIXELS)


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize(
    "name", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"pHYs", b"tIME", b"eXIf", b"teSt"]
)
def test_a_png_with_a_wrong_checksum_in_an_optional_chunk_is_decoded(name, behind):
    data = with_chunk(with_wrong_checksum(png_chunk(name, b"Comment\0\0abcdefgh")), behind=behind)
    np.testing.assert_array_equal(decode(data)[0], PIXELS)


@pytest.mark.parametrize(
    "name", [b"pHYs", b"cHRM", b"gAMA", b"sRGB", b"iCCP", b"acTL", b"fcTL", b"tRNS"]
)
def test_a_png_with_an_optional_chunk_of_wrong_length_is_decoded(name):
    np.testing.assert_array_equal(decode(with_chunk(png_chunk(name, b"\1")))[0], PIXELS)


def test_a_png_with_unknown_chunks_is_decoded():
    np.testing.assert_array_equal(decode(with_chunk(png_chunk(b"prVt", b"anything")))[0], PIXELS)


def test_chunks_after_a_broken_chunk_are_used():
    """Transparency and orientation are used, even if another chunk had to be left out."""
    broken = with_wrong_checksum(png_chunk(b"tEXt", b"Comment\0abc"))
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert decode(with_chunk(broken, png=encoded(palette, "PNG", transparency=3)))[0].min() == 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert decode(with_chunk(broken, png=encoded(picture(), "PNG", exif=exif)))[1:] == (48, 64)
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    turned = encoded(picture(), "PNG", pnginfo=xmp)
    assert decode(turned)[1:] == decode(with_chunk(broken, png=turned))[1:] == (48, 64)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_png_with_a_broken_critical_chunk_fails(name):
    png = encoded(picture("P"), "PNG")
    position = png.index(name)
    (length,) = struct.unpack(">I", png[position - 4 : position])
    broken = png[: position + 4] + bytes(length) + png[position + 4 + length :]
    assert failure_of(broken).error_type == "decode_error"


def test_a_png_that_ends_within_its_pixels_is_truncated():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    png = with_chunk(png_chunk(b"pHYs", bytes(9)), png=encoded(noise, "PNG"))
    assert failure_of(png[:4000]).error_type == "truncated"
    assert (
        failure_of(with_chunk(LARGE_CHUNKS["packed text"], png=png)[:-5000]).error_type
        == "truncated"
    )


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("cut", [1, 2], ids=["half of its end marker", "its end marker"])
def test_a_jpeg_without_its_end_marker_is_decoded(kind, cut):
    complete = encoded(photo(), "JPEG", **JPEG_KINDS[kind])
    pixels, *size = decode(complete)
    mended, *size_of_mended = decode(complete[:-cut])
    np.testing.assert_array_equal(mended, pixels)
    assert size == size_of_mended


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_jpeg_that_ends_within_its_pixels_is_truncated(kind):
    """This holds also where the missing pixels are white, since nobody can know what they were."""
    complete = encoded(photo(), "JPEG", **JPEG_KINDS[kind])
    generator = random.Random(0)
    for cut in (
        20,
        100,
        len(complete) // 2,
        *(generator.randrange(20, len(complete) - 700) for _ in range(15)),
    ):
        assert failure_of(complete[:-cut]).error_type == "truncated", cut


def test_a_jpeg_without_its_last_scan_is_truncated():
    complete = encoded(photo(), "JPEG", progressive=True)
    tables_of_last_scan = complete.rindex(b"\xff\xc4")
    assert failure_of(complete[:tables_of_last_scan]).error_type == "truncated"


def test_a_large_jpeg_without_its_end_marker_is_decoded_in_a_decoder_process():
    """Such an image is decoded several times, but memory for a large image is reserved once."""
    complete = encoded(photo((4800, 3600)), "JPEG", quality=60)
    pixels, *size = decoder_pool.decode(complete)
    mended, *size_of_mended = decoder_pool.decode(complete[:-2])
    np.testing.assert_array_equal(mended, pixels)
    assert size == size_of_mended == [4800, 3600]
    assert decoder_pool.make_thumbnail(complete[:-2], 64) == decoder_pool.make_thumbnail(
        complete, 64
    )


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe0\0\x08JFIF\0\1",
        b"\xff\xe2\0\x10MPF\0II*\0\x08\0\0\0\xff\xff",
        b"\xff\xed\0\x12Photoshop 3.0\0 8",
        b"\xff\xee\0\x08Adobe\0",
    ],
    ids=["JFIF", "MPF", "Photoshop", "Adobe"],
)
def test_a_jpeg_with_a_broken_application_segment_is_decoded(segment):
    complete = encoded(picture(), "JPEG")
    assert decode(complete[:2] + segment + complete[2:])[1:] == (64, 48)


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """Returns a TIFF of one directory without readable pixels, followed by a camera maker."""
    directory = (
        struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(4)
    )
    return b"II*\0\x08\0\0\0" + directory + b"NIKON CORPORATION\0" + bytes(64)


SIZE = [(256, 4, 1, 6000), (257, 4, 1, 4000)]
NO_IMAGES = {
    "HEIC": struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(500),
    "HEIC ": struct.pack(">I", 24) + b"ftypmif1\0\0\0\0mif1heic" + bytes(500),
    "HEIF": struct.pack(">I", 20) + b"ftypmif1\0\0\0\0mif1" + bytes(500),
    "CR3": struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + bytes(500),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(500),
    "DNG": tiff(*SIZE, (50706, 1, 4, 0x0401)),
    "Nikon": tiff(*SIZE, (271, 2, 18, 8 + 2 + 12 * 4 + 4), (330, 4, 1, 500)),
    "Sony": tiff(*SIZE, (259, 3, 1, 32767)),
    "Fujifilm": b"FUJIFILMCCD-RAW 0201" + bytes(500),
    "video (MPEG-4)": struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2" + bytes(500),
    "QuickTime": struct.pack(">I", 20) + b"ftypqt  \0\0\0\0qt  " + bytes(500),
    "WebM": b"\x1aE\xdf\xa3" + bytes(500),
    "AVI": b"RIFF\0\0\0\0AVI LIST" + bytes(500),
    "JPEG XL": b"\xff\x0a" + bytes(500),
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500),
    "PSD": b"8BPS\0\1" + bytes(500),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(500),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": b"\xef\xbb\xbf\n<!DOCTYPE html>",
    "zip": b"PK\3\4" + bytes(100),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_file_that_is_no_image_is_named_by_what_it_is(name):
    failure = failure_of(NO_IMAGES[name])
    assert failure.error_type == "unsupported_format"
    assert name.strip() in failure.message
    assert "\n" not in failure.message


def test_avif_is_decoded_or_named_if_pillow_cannot_read_it(monkeypatch):
    avif = encoded(picture(), "AVIF")
    assert decode(avif)[1:] == (64, 48)
    monkeypatch.setattr(features, "check", lambda name: False)
    failure = failure_of(avif[:40])
    assert (failure.error_type, "AVIF" in failure.message) == ("unsupported_format", True)


def test_a_tiff_is_not_taken_for_a_raw_file():
    assert decode(encoded(picture(), "TIFF"))[1:] == (64, 48)
    assert failure_of(encoded(picture(), "TIFF")[:200]).error_type in ("decode_error", "truncated")


def test_good_files_are_opened_once_and_unchanged(monkeypatch):
    opened = []
    real = Image.open

    def record_and_open(fp, formats):
        opened.append(fp.getvalue())
        return real(fp, formats=formats)

    monkeypatch.setattr(Image, "open", record_and_open)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF"):
        data = encoded(picture(), kind)
        decode(data)
        assert opened == [data]
        opened.clear()


def test_decoding_any_beginning_of_a_file_ends_with_pixels_or_an_image_error():
    """No repair of a file with optional parts reads beyond the end of the file."""
    jpeg = encoded(picture(), "JPEG", comment=b"c" * 20, exif=Image.Exif())
    png = with_chunk(LARGE_CHUNKS["packed text"])
    for data in (jpeg, png):
        for end in range(0, len(data), max(1, len(data) // 150)):
            try:
                assert decode(data[:end], size=8)[0].shape == (8, 8, 3)
            except ImageError:
                continue
