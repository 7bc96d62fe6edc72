"""The first inputs of the fuzzer: good and bad ones that the tests make, and earlier findings."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.saved_model import CONFIG, METRICS, VOCABULARY, save_model
from captioner_core.io.tensors import WEIGHTS, format_tensors, parse_tensors
from captioner_core.text.vocabulary import Vocabulary
from fuzz.targets import SEPARATOR, archive, flickr8k_text
from tests.image_files import bad_files, encoded, good_files, picture

FOUND = Path(__file__).parents[1] / "tests" / "fuzz" / "found"
"""Folder of earlier findings, with a subfolder for each target."""
_MAX_BYTES = 20_000  # larger inputs slow the fuzzer down and find nothing more


def seeds(target: str) -> list[bytes]:
    """Returns the first inputs for a target.

    Args:
      target: one of ``TARGETS``.
    """
    made = {"images": _images, "datasets": _datasets, "models": _models}[target]()
    return [data for data in made if len(data) <= _MAX_BYTES] + found(target)


def found(target: str) -> list[bytes]:
    """Returns a target's earlier findings, whose causes are fixed."""
    folder = FOUND / target
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _images() -> Iterator[bytes]:
    yield from good_files().values()
    yield from (data for data, _ in bad_files().values())


def _datasets() -> Iterator[bytes]:
    yield b'\0image_id,caption,split\na.png,A dog .,train\ndeep/b.png,"A cat, asleep",dev\n'
    yield b"\0file_name,caption\na.png,A dog .\n,none\nmissing.png,A bird\n"
    names = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "deep/b.png"}]
    captions = [{"id": number, "image_id": number, "caption": "A dog ."} for number in (1, 2)]
    yield b"\1" + json.dumps({"images": names, "annotations": captions}).encode()
    lines = b"a.png#0\tA dog .\na.png#1\tTwo dogs\nb.png#0\tA cat\nno caption\n"
    yield b"\2" + lines
    yield b"\3" + flickr8k_text(lines)
    photographs = {
        "a.png": encoded(picture(size=(4, 4)), "PNG"),
        "__MACOSX/._a.png": b"",
        "Flicker8k_Dataset/b.png": b"x",
    }
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield b"\4" + archive(photographs, method)


def _models() -> Iterator[bytes]:
    """Yields the smallest possible model, with its weights in float32 and in float16."""
    from captioner_core.captioning.network import Captioner

    vocabulary = Vocabulary.from_captions(["dog"])
    config = CaptionerConfig(
        backbone="xception",
        vocabulary_size=len(vocabulary),
        cell_dim=2,
        attention="mean",
        units=2,
        embedding_dim=2,
        heads=1,
        max_words=2,
    )
    with TemporaryDirectory() as name:
        folder = Path(name, "model")
        save_model(str(folder), Captioner(config, seed=1), vocabulary, {})
        json_files = [(folder / file).read_bytes() for file in (CONFIG, VOCABULARY, METRICS)]
        yield SEPARATOR.join([*json_files, (folder / WEIGHTS).read_bytes()])
        tensors = parse_tensors((folder / WEIGHTS).read_bytes())
        halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        yield SEPARATOR.join([*json_files, format_tensors(halves)])
