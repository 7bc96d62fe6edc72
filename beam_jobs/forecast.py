"""What a run will cost, from a measured sample, before anything is spent."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow.parquet as pq

from beam_jobs import files, launch, match_captions
from beam_jobs.caption_images import INPUT_SIZE, load_models
from beam_jobs.handlers import CaptionedImage, CaptionHandler, CaptioningModels
from captioner_core.console.progress import hidden
from captioner_core.errors import ImageError
from captioner_core.images import decoder_pool, decoding
from captioner_core.images.listing import ListingCounts, SkippedEntry, local_path
from captioner_core.io import storage
from captioner_core.io.ordered_map import ordered_map
from captioner_core.matching import (
    Search,
    candidate_count,
    group_images,
    make_caption_set,
    make_records,
)
from captioner_core.options import RunOptions
from captioner_core.report import write_report
from captioner_core.runs import commits
from captioner_core.tables import layout
from captioner_core.tables.schemas import (
    FEATURE_DIM,
    GENERATED,
    TABLE_SCHEMAS,
    FailureRow,
    ImageRef,
    Row,
    rows_as_table,
)
from captioner_core.text.encoders import TextEncoder, load_encoder

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
      start_s: until Python, libraries and models are loaded and the first batch is done.
      image_s: for each image from then on, read to captioned.
      index_captions: that the index tables hold, without those of this run.
      caption_s: for each caption encoded.
      pair_s: for each pair of captions.
      finish_s: what matching and the report take whatever the number of images.
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
    caption_s: float
    pair_s: float
    finish_s: float
    unreadable: float
    top_k: int

    @property
    def pairs(self) -> int:
        """Pairs of captions compared."""
        return self.images * (self.images + self.index_captions)

    @property
    def seconds(self) -> float:
        """Of the whole run on this machine."""
        return self.start_s + self.images * self.image_s + self.match_s + self.finish_s

    @property
    def match_s(self) -> float:
        """Of encoding and comparing captions."""
        return (self.images + self.index_captions) * self.caption_s + self.pairs * self.pair_s

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
            f"{_time(self.match_s)} to match, {_time(self.finish_s)} to write and report",
            f"pairs    {self.pairs:,} at most: {self.images:,} captions with each other and with "
            f"{self.index_captions:,} of the index; equal ones are compared once",
            f"disk     {_size(self.disk_bytes)} at most, features {_size(self.images * FEATURE_DIM * 4)} of it",
        ]
        if self.unreadable:
            said.append(f"failures {self.unreadable:.0%} of the sampled images can't be used")
        return said


def forecast(
    options: RunOptions, load: Callable[[], CaptioningModels] | None = None, *, begun_s: float = 0.0
) -> Forecast:
    """Lists the folder and does the whole run for a sample of its images; leaves nothing behind.

    Args:
      options: of the run.
      load: makes backbone and captioner; by their names where None.
      begun_s: seconds that this process took before.

    Raises:
      CaptionerError: the folder, a table, the model or weights are missing.
    """
    start = time.perf_counter()
    counts, sample, total = _listed(options.images, options.exclude)
    precision = launch.chosen_precision(options.precision, ())
    handler = CaptionHandler(
        load
        or partial(load_models, options.backbone, options.model, options.beam_width, precision),
        batch_size=min(options.batch_size, max(1, len(sample) // 2)),
    )
    models = handler.load_model()
    loaded_s = time.perf_counter() - start
    first_s, image_s, sizes, made = _captioned(handler, models, sample, options)
    captions = [image.caption.caption for image in made]
    caption_s, pair_s = _match_seconds(load_encoder(options.encoder), captions, options)
    return Forecast(
        images=counts.images,
        passed_over=counts.passed_over,
        read_bytes=total
        if total is not None
        else round(float(np.mean(sizes or [0])) * counts.images),
        exact=total is not None,
        start_s=begun_s + loaded_s + first_s,
        image_s=image_s,
        index_captions=sum(
            storage.row_count(part) for uri in options.index for part in storage.list_parts(uri)
        ),
        caption_s=caption_s,
        pair_s=pair_s,
        finish_s=_finish_seconds(made, options),
        unreadable=1 - len(made) / max(1, len(sample)) if sample else 0.0,
        top_k=options.top_k,
    )


def _listed(
    folder: str, exclude: Sequence[str]
) -> tuple[ListingCounts, list[ImageRef], int | None]:
    """Counts, a sample drawn evenly, and the bytes of all where they are here."""
    counts, total = ListingCounts(), 0
    sample: list[ImageRef] = []
    draw = random.Random(0)  # noqa: S311, for a sample, not a secret
    here = not storage.is_remote(folder)
    for entry in files.list_entries(folder, exclude):
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


def _captioned(
    handler: CaptionHandler,
    models: CaptioningModels,
    sample: Sequence[ImageRef],
    options: RunOptions,
) -> tuple[float, float, list[int], list[CaptionedImage]]:
    """Seconds of the first batch beyond a usual one, seconds for an image, file sizes, and what was made."""
    size = handler.batch_elements_kwargs()["max_batch_size"]
    sizes: list[int] = []

    def decode(ref: ImageRef) -> decoding.DecodedImage | None:
        try:
            data = files.read_bytes(ref.image_uri, options.limits.max_bytes, options.images)
            sizes.append(len(data))
            pixels, width, height = decoder_pool.decode(
                data,
                size=INPUT_SIZE,
                max_pixels=options.limits.max_pixels,
                max_seconds=options.limits.max_seconds,
            )
        except ImageError:
            return None
        return decoding.DecodedImage(ref, hashlib.sha256(data).hexdigest(), width, height, pixels)

    made: list[CaptionedImage] = []
    batch: list[decoding.DecodedImage] = []
    taken: list[float] = []
    before, since = time.perf_counter(), 0
    for number, image in enumerate(ordered_map(decode, sample, ahead=size), 1):
        batch += [image] if image else []
        if number % size == 0 or number == len(sample):
            made += handler.run_inference(batch, models) if batch else []
            now = time.perf_counter()
            taken.append((now - before) / (number - since))
            batch, before, since = [], now, number
    usual = float(np.median(taken[1:] or taken or [0.0]))
    first = max(0.0, (taken[0] - usual) * size) if taken else 0.0
    return first, usual, sizes, made


def _match_seconds(
    encoder: TextEncoder, captions: Sequence[str], options: RunOptions
) -> tuple[float, float]:
    """What encoding a caption costs, and what a pair of them does, in a search of as many as memory keeps at once."""
    if not captions:
        return 0.0, 0.0
    texts = [f"{captions[number % len(captions)]} {number}" for number in range(_TIMED_CAPTIONS)]
    records = make_records(texts, texts, [GENERATED] * len(texts))
    before = time.perf_counter()
    asking = make_caption_set(records, encoder, searched=True)
    encoded_s = time.perf_counter() - before
    search = Search(
        encoder.calibration, np.float32(options.threshold), candidate_count(options.top_k)
    )
    before = time.perf_counter()
    search.answers(asking, group_images(asking), asking)
    return encoded_s / _TIMED_CAPTIONS, (time.perf_counter() - before) / _TIMED_CAPTIONS**2


def _finish_seconds(made: Sequence[CaptionedImage], options: RunOptions) -> float:
    """What matching and reporting the sample takes, which is what they take at least."""
    with tempfile.TemporaryDirectory() as output:
        run = dataclasses.replace(options, output=output, index=(), plan=False)
        place = commits.begin_attempt(run.layout)
        rows: dict[str, Sequence[Row]] = {
            layout.CAPTIONS: [one.caption for one in made],
            layout.FEATURES: [one.features for one in made],
        }
        for name in (layout.CAPTIONS, layout.FEATURES, layout.FAILURES):
            table = rows_as_table(rows.get(name, []), run.run_id, TABLE_SCHEMAS[name])
            part = layout.join(place.staged_table(name), "part.parquet")
            with storage.output_stream(part) as stream:
                pq.write_table(table, stream)
            commits.record_staged_parts(place, name, "part", [part])
        asked = dataclasses.asdict(run.caption_options())
        counts = ListingCounts(images=len(made)).as_manifest()
        manifest = commits.commit_stage(
            place,
            commits.new_manifest(run.layout),
            layout.CAPTION,
            wall_time_s=0.0,
            options=asked,
            counts=counts,
            complete=False,
        )
        before = time.perf_counter()
        with hidden():
            match_captions.run(run.match_options(), (), manifest)
        write_report(run.layout.run_dir)
        return time.perf_counter() - before


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
