"""Decoding image files: every format and mode, clear failures, and no other exception."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from captioner_core.errors import ImageError
from captioner_core.images import decoding
from captioner_core.images.decoding import decode
from tests.image_files import bad_files, encoded, good_files, picture

GOOD = good_files()
BAD = bad_files()


@pytest.mark.parametrize("name", GOOD)
def test_an_image_is_decoded(name):
    pixels, width, height = decode(GOOD[name], size=32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert width >= 1
    assert height >= 1


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_image_fails_with_a_reason(name):
    data, error_type = BAD[name]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert error_type in (None, caught.value.error_type)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) > 15


def test_the_failure_names_what_the_content_looks_like():
    assert "PostScript" in _message(BAD["postscript.jpg"][0])
    assert "PDF" in _message(BAD["document.png"][0])
    assert "HTML" in _message(BAD["page.gif"][0])
    assert "text" in _message(BAD["text.jpg"][0])


def _message(data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value.message


def test_every_orientation_is_turned_upright():
    """The file of orientation n contains the turned picture, as a camera writes it."""
    upright = picture(size=(64, 32))
    expected, _, _ = decode(encoded(upright, "PNG"), size=32)
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels, width, height = decode(encoded(upright.transpose(turn), "PNG", exif=exif), size=32)
        assert (width, height) == (64, 32), orientation
        np.testing.assert_allclose(
            pixels.astype(int), expected.astype(int), atol=2, err_msg=str(orientation)
        )


def test_wide_grey_values_are_scaled_and_not_clipped():
    for name in ("sixteen bits.png", "sixteen bits.tiff", "sixteen bits.pgm", "float.tif"):
        pixels, _, _ = decode(GOOD[name], size=48)
        assert abs(int(pixels.mean()) - 127) < 3, name
        assert pixels[0].mean() < 10, name
        assert pixels[-1].mean() > 245, name


@pytest.mark.parametrize(
    "name", ["cmyk.jpg", "cmyk.tif", "lab.tif", "palette.png", "plain.avif", "plain.jp2"]
)
def test_colours_stay_about_the_same(name):
    expected, _, _ = decode(GOOD["plain.bmp"], size=32)
    pixels, _, _ = decode(GOOD[name], size=32)
    assert np.abs(pixels.astype(int) - expected).mean() < 20


def test_transparent_areas_become_white():
    image = picture("RGBA")
    image.putalpha(0)
    assert decode(encoded(image, "PNG"))[0].min() == 255
    grey = Image.new("LA", (8, 8), (0, 0))
    assert decode(encoded(grey, "PNG"))[0].min() == 255
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert decode(encoded(palette, "PNG", transparency=3))[0].min() == 255


@pytest.mark.parametrize(
    "name",
    ["animated.gif", "animated.webp", "animated.png", "several pages.tif", "two pictures.jpg"],
)
def test_the_first_frame_is_decoded(name):
    expected, _, _ = decode(GOOD["plain.bmp"], size=32)
    assert np.abs(decode(GOOD[name], size=32)[0].astype(int) - expected).mean() < 20


def test_the_number_of_pixels_is_checked_before_decoding():
    data = encoded(picture(size=(100, 100)), "PNG")
    assert decode(data, max_pixels=10_000)[1:] == (100, 100)
    with pytest.raises(ImageError, match="100 x 100") as caught:
        decode(data[: len(data) // 2], max_pixels=9_999)
    assert caught.value.error_type == "too_many_pixels"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_damaged_file_raises_no_other_exception(name, data):
    """Whatever bytes are removed or changed, the result is pixels or an ImageError."""
    damaged = bytearray(GOOD[name])
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels, _, _ = decode(bytes(damaged), size=16, max_pixels=10**6)
    except ImageError:
        return
    assert pixels.shape == (16, 16, 3)


def test_no_other_format_is_ever_opened(monkeypatch):
    opened = []
    real_open = Image.open

    def record_and_open(fp, formats):
        opened.append(formats)
        return real_open(fp, formats=formats)

    monkeypatch.setattr(Image, "open", record_and_open)
    decode(GOOD["plain.bmp"])
    assert "EPS" not in opened[0]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_reduced_scale_and_looks_the_same(orientation, monkeypatch):
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8)).resize((2400, 1800))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = io.BytesIO()
    photo.save(data, "JPEG", quality=95, exif=exif)
    loaded = set()
    load = JpegImageFile.load

    def record_and_load(image):
        loaded.add(image.size)
        return load(image)

    monkeypatch.setattr(JpegImageFile, "load", record_and_load)
    pixels, width, height = decoding.decode(data.getvalue())
    assert loaded == {(1200, 900)}
    assert (width, height) == ((2400, 1800) if orientation == 1 else (1800, 2400))
    whole = photo if orientation == 1 else photo.transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(whole.resize((299, 299), Image.Resampling.BILINEAR), np.float64)
    assert np.abs(pixels - expected).mean() < 1.5
