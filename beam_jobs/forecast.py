"""What a run will cost, from a measured sample, before anything is spent."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from beam_jobs import files, launch
from beam_jobs.caption_images import INPUT_SIZE, load_models
from beam_jobs.handlers import CaptioningModels
from captioner_core import images, storage
from captioner_core.errors import ImageError
from captioner_core.listing import ListingCounts, SkippedEntry, local_path
from captioner_core.matching import Search, group_images, kept_rows, make_caption_set, make_records
from captioner_core.options import RunOptions
from captioner_core.schemas import FEATURE_DIM, GENERATED, FailureRow, ImageRef
from captioner_core.text_encoders import TextEncoder, load_encoder

_SAMPLE = 64  # images
_TIMED_CAPTIONS = 2_048  # against as many, to learn what a pair costs
_ROW_BYTES = 250  # of captions, matches and what else has a row for an image, compressed
_MATCH_BYTES = 40


@dataclass(frozen=True)
class Forecast:
    """What is there, and what a run over it will take.

    Args:
      images: found.
      passed_over: other files.
      read_bytes: of the images.
      exact: whether these were counted, not estimated from the sample.
      start_s: until the first batch is done.
      image_s: for each image from then on, read to captioned.
      index_captions: that the index tables hold, without those of this run.
      pair_s: for each pair of captions.
      unreadable: share of the sample that failed.
      top_k: matches of an image at most.
    """

    images: int
    passed_over: int
    read_bytes: int
    exact: bool
    start_s: float
    image_s: float
    index_captions: int
    pair_s: float
    unreadable: float
    top_k: int

    @property
    def pairs(self) -> int:
        """Pairs of captions compared."""
        return self.images * (self.images + self.index_captions)

    @property
    def seconds(self) -> float:
        """Of the whole run on this machine."""
        return self.start_s + self.images * self.image_s + self.pairs * self.pair_s

    @property
    def disk_bytes(self) -> int:
        """Of the tables."""
        return self.images * (FEATURE_DIM * 4 + _ROW_BYTES + self.top_k * _MATCH_BYTES)

    def lines(self) -> list[str]:
        """As a person reads it."""
        about = "" if self.exact else "about "
        said = [
            f"images   {self.images:,} found, {about}{_size(self.read_bytes)}; {self.passed_over:,} other files",
            f"time     {_time(self.seconds)} on this machine: {_time(self.start_s)} to start, "
            f"{_time(self.images * self.image_s)} at {1 / self.image_s if self.image_s else 0:,.1f} images/s, "
            f"{_time(self.pairs * self.pair_s)} to match",
            f"pairs    {self.pairs:,} at most: {self.images:,} captions with each other and with "
            f"{self.index_captions:,} of the index; equal ones are compared once",
            f"disk     {_size(self.disk_bytes)} at most, features {_size(self.images * FEATURE_DIM * 4)} of it",
        ]
        if self.unreadable:
            said.append(f"failures {self.unreadable:.0%} of the sampled images can't be used")
        return said


def forecast(options: RunOptions, load: Callable[[], CaptioningModels] | None = None) -> Forecast:
    """Lists the folder and measures a sample of its images; writes nothing.

    Args:
      options: of the run.
      load: makes backbone and captioner; by their names where None.

    Raises:
      CaptionerError: the folder, a table, the model or weights are missing.
    """
    counts, sample, total = _listed(options.images)
    start = time.perf_counter()
    precision = launch.chosen_precision(options.precision, ())
    models = load() if load else load_models(options.backbone, options.model, options.beam_width, precision)
    loaded = time.perf_counter() - start
    first_s, image_s, sizes, failed, captions = _measured(models, sample, options)
    rows = sum(storage.row_count(part) for uri in options.index for part in storage.list_parts(uri))
    return Forecast(
        images=counts.images,
        passed_over=counts.other + counts.links,
        read_bytes=total if total is not None else round(float(np.mean(sizes or [0])) * counts.images),
        exact=total is not None,
        start_s=loaded + first_s,
        image_s=image_s,
        index_captions=rows,
        pair_s=_pair_seconds(load_encoder(options.encoder), captions, options),
        unreadable=failed / max(1, len(sample)),
        top_k=options.top_k,
    )


def _listed(folder: str) -> tuple[ListingCounts, list[ImageRef], int | None]:
    """Counts, a sample drawn evenly, and the bytes of all where they are here."""
    counts, total = ListingCounts(), 0
    sample: list[ImageRef] = []
    draw = random.Random(0)  # noqa: S311, for a sample, not a secret
    here = not files.is_remote(folder)
    for entry in files.list_entries(folder):
        counts = counts.counting(entry)
        if isinstance(entry, SkippedEntry | FailureRow):
            continue
        total += _file_size(entry.image_uri) if here else 0
        # Vitter 1985 (https://doi.org/10.1145/3147.3165), algorithm R: every image is as likely to be in the sample
        if len(sample) < _SAMPLE:
            sample.append(entry)
        elif (place := draw.randrange(counts.images)) < _SAMPLE:
            sample[place] = entry
    return counts, sample, total if here else None


def _file_size(image_uri: str) -> int:
    try:
        return os.path.getsize(local_path(image_uri))
    except OSError:  # the run makes a failure of it
        return 0


def _measured(
    models: CaptioningModels, sample: Sequence[ImageRef], options: RunOptions
) -> tuple[float, float, list[int], int, list[str]]:
    """Seconds of the first batch beyond a usual one, seconds for an image, file sizes, failures and captions."""
    size = min(options.batch_size, max(1, len(sample) // 2))
    failed = 0
    taken: list[float] = []
    sizes: list[int] = []
    captions: list[str] = []
    for start in range(0, len(sample), size):
        before = time.perf_counter()
        pixels = []
        for ref in sample[start : start + size]:
            try:
                data = files.read_bytes(ref.image_uri, options.max_bytes)
                sizes.append(len(data))
                pixels.append(images.decode(data, size=INPUT_SIZE, max_pixels=options.max_pixels)[0])
            except ImageError:
                failed += 1
        if pixels:
            found = models.generator.generate(*models.backbone.features(np.stack(pixels)))
            captions += [caption.text for caption in found]
        taken.append((time.perf_counter() - before) / len(sample[start : start + size]))
    usual = float(np.median(taken[1:] or taken or [0.0]))
    first = max(0.0, (taken[0] - usual) * size) if taken else 0.0
    return first, usual, sizes, failed, captions


def _pair_seconds(encoder: TextEncoder, captions: Sequence[str], options: RunOptions) -> float:
    """What a pair of captions costs, in a search of as many as memory keeps at once."""
    if not captions:
        return 0.0
    texts = [f"{captions[number % len(captions)]} {number}" for number in range(_TIMED_CAPTIONS)]
    records = make_records(texts, texts, [GENERATED] * len(texts))
    asking = make_caption_set(records, encoder, searched=True)
    search = Search(encoder.calibration, np.float32(options.threshold), kept_rows(options.top_k))
    before = time.perf_counter()
    search.answers(asking, group_images(asking), asking)
    return (time.perf_counter() - before) / _TIMED_CAPTIONS**2


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes all")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
