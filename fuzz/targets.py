"""The targets of the fuzzer: functions that take any bytes and raise nothing.

A target catches the errors that are documented for bad input, so any exception that it raises is a
finding. Targets do not need the fuzzer: ``tests/fuzz`` gives them the inputs of earlier findings.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from captioner_core.captioning import saved_model
from captioner_core.captioning.saved_model import (
    CONFIG,
    METRICS,
    VOCABULARY,
    check_model,
    read_model_id,
)
from captioner_core.datasets import coco, csv_captions, flickr8k
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoding
from captioner_core.io.tensors import WEIGHTS
from tests.image_files import encoded, picture

_SIDE = 16  # pixels, of the decoded images and thumbnails
_MAX_PIXELS = 250_000  # keeps each input fast
_MODEL_FILES = (CONFIG, VOCABULARY, METRICS, WEIGHTS)
SEPARATOR = b"\0"
"""Separates the files of a model. JSON cannot contain it, and the weights come last."""


def decode_image(data: bytes) -> None:
    """Decodes an image for captioning and as a thumbnail."""
    try:
        pixels, width, height = decoding.decode(data, size=_SIDE, max_pixels=_MAX_PIXELS)
        assert pixels.shape == (_SIDE, _SIDE, 3)
        assert pixels.dtype == np.uint8
        assert width * height >= 1
    except ImageError as error:
        _check_failure(error)
    try:
        _, (width, height) = decoding.make_thumbnail(data, _SIDE, max_pixels=_MAX_PIXELS)
        assert 1 <= width <= _SIDE
        assert 1 <= height <= _SIDE
    except ImageError as error:
        _check_failure(error)


def _check_failure(error: ImageError) -> None:
    """Checks that an error fits into a row of failures: one line of text that UTF-8 can encode."""
    assert error.error_type.replace("_", "").isalpha()
    assert len(error.message.splitlines()) == 1
    error.message.encode("utf-8")


def build_dataset(data: bytes) -> None:
    """Builds a dataset from a source, whose kind the first byte selects from ``DATASET_KINDS``."""
    if data:
        build = DATASET_KINDS[data[0] % len(DATASET_KINDS)]
        try:
            build(data[1:])
        except CaptionerError:
            return


def _csv(data: bytes) -> None:
    source = _images() / "captions.csv"
    source.write_bytes(data)
    csv_captions.build(_scratch() / "csv", csv_file=source, images=_images())


def _coco(data: bytes) -> None:
    source = _images() / "captions.json"
    source.write_bytes(data)
    coco.build(_scratch() / "coco", annotations={"train": source}, images=_images())


def _flickr8k_captions(data: bytes) -> None:
    _flickr8k(flickr8k_text(data), _flickr8k_images())


def _flickr8k_text(data: bytes) -> None:
    _flickr8k(data, _flickr8k_images())


def _flickr8k_photographs(data: bytes) -> None:
    _flickr8k(flickr8k_text(b"a.png#0\tA dog .\n"), data)


def _flickr8k(text: bytes, pictures: bytes) -> None:
    folder = _scratch() / "zips"
    folder.mkdir(exist_ok=True)
    (folder / flickr8k.TEXT_ZIP).write_bytes(text)
    (folder / flickr8k.IMAGES_ZIP).write_bytes(pictures)
    flickr8k.build(_scratch() / "flickr8k", source=folder, cache=folder)


DATASET_KINDS: tuple[Callable[[bytes], None], ...] = (
    _csv,
    _coco,
    _flickr8k_captions,
    _flickr8k_text,
    _flickr8k_photographs,
)


def _loaded_id(folder: str) -> str:
    return saved_model.load_model(folder).model_id


def load_model(data: bytes) -> None:
    """Checks and loads a model folder, but builds no network, which would take seconds.

    Args:
      data: configuration, vocabulary, metrics and weights, with ``SEPARATOR`` between them.
    """
    folder = _scratch() / "model"
    folder.mkdir(exist_ok=True)
    parts = data.split(SEPARATOR, len(_MODEL_FILES) - 1)
    for name, part in zip(_MODEL_FILES, (*parts, b"", b"", b""), strict=False):
        (folder / name).write_bytes(part)
    for read in (read_model_id, check_model, _loaded_id):
        try:
            assert read(str(folder)).startswith("lstm-")
        except CaptionerError:
            continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    "images": decode_image,
    "datasets": build_dataset,
    "models": load_model,
}


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="captioner-fuzz-")


def _scratch() -> Path:
    return Path(_folder().name)


@cache
def _images() -> Path:
    """Returns a folder with the images ``a.png`` and ``deep/b.png``."""
    folder = _scratch() / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        (folder / name).write_bytes(encoded(picture(size=(4, 4)), "PNG"))
    return folder


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a zip archive.

    Args:
      files: the content of each file by name.
      method: the compression; a fuzzer can change the content of stored files only.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as zip_file:
        for name, data in files.items():
            zip_file.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def flickr8k_text(captions: bytes) -> bytes:
    """Returns Flickr8k's zip archive of texts, with these captions."""
    lists = {"train": b"a.png\n", "dev": b"b.png\n", "test": b""}
    named = {f"Flickr_8k.{split}Images.txt": ids for split, ids in lists.items()}
    return archive({"Flickr8k.token.txt": captions, **named})


@cache
def _flickr8k_images() -> bytes:
    return archive({"Flicker8k_Dataset/a.png": encoded(picture(size=(4, 4)), "PNG")})
