"""Estimates what a run will cost, from a measured sample, before anything is written.

``captioner run --plan`` prints it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from beam_jobs import match_captions
from beam_jobs.handlers import CaptionedImage, CaptionHandler
from captioner_core.captioning.captioning_models import CaptioningModels, load_models
from captioner_core.console.progress import hide_progress
from captioner_core.errors import ImageError
from captioner_core.features.base import INPUT_SIZE
from captioner_core.features.engines import choose_engine
from captioner_core.images import decoder_pool, decoding
from captioner_core.images.listing import ListingCounts, SkippedEntry, local_path
from captioner_core.images.remote_listing import list_entries, read_bytes
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

SAMPLED_IMAGES = 64
# This many captions are searched among as many, to learn what a pair costs.
_TIMED_CAPTIONS = 2_048
# The compressed size of an image's rows in all tables but features, without its matches.
_BYTES_PER_IMAGE = 250
_BYTES_PER_MATCH = 40
_FEATURE_BYTES = 4 * FEATURE_DIM


@dataclasses.dataclass(frozen=True)
class RunEstimate:
    """The contents of a folder, and the time that a run over it takes on this machine.

    Args:
      images: The number of images found.
      passed_over: The number of other files.
      read_bytes: The size of the images.
      is_exact: Whether ``read_bytes`` was added up; otherwise it is estimated from the sample.
      start_s: The seconds until Python, libraries and models are loaded and the first batch is
        done.
      image_s: The seconds that each image takes from then on, from reading to caption.
      index_captions: The number of captions in the index tables.
      caption_s: The seconds that encoding a caption takes.
      pair_s: The seconds that comparing a pair of captions takes.
      finish_s: The seconds that matching and the report take, however few images there are.
      failed_share: The share of the sample that failed.
      top_k: The largest number of matches of an image.
    """

    images: int
    passed_over: int
    read_bytes: int
    is_exact: bool
    start_s: float
    image_s: float
    index_captions: int
    caption_s: float
    pair_s: float
    finish_s: float
    failed_share: float
    top_k: int

    @property
    def pairs(self) -> int:
        """The number of caption pairs that are compared."""
        return self.images * (self.images + self.index_captions)

    @property
    def seconds(self) -> float:
        """The seconds that the whole run takes."""
        return self.start_s + self.caption_images_s + self.match_s + self.finish_s

    @property
    def caption_images_s(self) -> float:
        """The seconds that captioning takes after the start."""
        return self.images * self.image_s

    @property
    def match_s(self) -> float:
        """The seconds that encoding and comparing captions take."""
        encoding_s = (self.images + self.index_captions) * self.caption_s
        return encoding_s + self.pairs * self.pair_s

    @property
    def disk_bytes(self) -> int:
        """The largest size of the tables."""
        bytes_per_image = _FEATURE_BYTES + _BYTES_PER_IMAGE + self.top_k * _BYTES_PER_MATCH
        return self.images * bytes_per_image

    def lines(self) -> list[str]:
        """Returns the estimate as lines for a person."""
        about = "" if self.is_exact else "about "
        rate = 1 / self.image_s if self.image_s else 0
        lines = [
            f"images   {self.images:,} found, {about}{_size_text(self.read_bytes)}; "
            f"{self.passed_over:,} other files",
            f"time     {_time_text(self.seconds)} on this machine: "
            f"{_time_text(self.start_s)} to start, "
            f"{_time_text(self.caption_images_s)} at {rate:,.1f} images/s, "
            f"{_time_text(self.match_s)} to match, "
            f"{_time_text(self.finish_s)} to write and report",
            f"pairs    {self.pairs:,} at most: {self.images:,} captions with each other and with "
            f"{self.index_captions:,} of the index; equal ones are compared once",
            f"disk     {_size_text(self.disk_bytes)} at most, features "
            f"{_size_text(self.images * _FEATURE_BYTES)} of it",
        ]
        if self.failed_share:
            lines.append(f"failures {self.failed_share:.0%} of the sampled images can't be used")
        return lines


def estimate_run(
    options: RunOptions,
    load: Callable[[], CaptioningModels] | None = None,
    *,
    begun_s: float = 0.0,
) -> RunEstimate:
    """Lists the folder and does the whole run for a sample of its images. Leaves nothing behind.

    Args:
      options: The options of the run.
      load: Makes backbone and captioner. By default they are loaded by their names.
      begun_s: The seconds that this process took before the call.

    Raises:
      CaptionerError: The folder, a table, the model or the weights are missing.
    """
    started = time.perf_counter()
    folder = _list_folder(options.images, options.exclude)
    engine, precision = choose_engine(options.engine, options.precision)
    by_name = partial(
        load_models, options.backbone, options.model, options.beam_width, precision, engine
    )
    # At least two batches, since the first one is slower.
    batch_size = min(options.batch_size, max(1, len(folder.sample) // 2))
    handler = CaptionHandler(load or by_name, batch_size=batch_size)
    models = handler.load_model()
    loaded_s = time.perf_counter() - started
    captioned = _caption_sample(handler, models, folder.sample, batch_size, options)
    captions = [image.caption.caption for image in captioned.images]
    matching = _time_matching(load_encoder(options.encoder), captions, options)
    read_bytes = folder.read_bytes
    if read_bytes is None:
        mean_bytes = float(np.mean(captioned.file_bytes or [0]))
        read_bytes = round(mean_bytes * folder.counts.images)
    index_parts = [part for uri in options.index for part in storage.list_parts(uri)]
    return RunEstimate(
        images=folder.counts.images,
        passed_over=folder.counts.passed_over,
        read_bytes=read_bytes,
        is_exact=folder.read_bytes is not None,
        start_s=begun_s + loaded_s + captioned.first_batch_s,
        image_s=captioned.image_s,
        index_captions=sum(map(storage.row_count, index_parts)),
        caption_s=matching.caption_s,
        pair_s=matching.pair_s,
        finish_s=_finish_seconds(captioned.images, options),
        failed_share=(len(folder.sample) - len(captioned.images)) / max(1, len(folder.sample)),
        top_k=options.top_k,
    )


class _Folder(NamedTuple):
    """An images folder.

    Args:
      counts: What it holds.
      sample: Some of its images, each chosen with the same probability.
      read_bytes: The size of all images, or None if they lie in a store.
    """

    counts: ListingCounts
    sample: list[ImageRef]
    read_bytes: int | None


def _list_folder(folder: str, exclude: Sequence[str]) -> _Folder:
    counts = ListingCounts()
    read_bytes = 0
    sample: list[ImageRef] = []
    draw = random.Random(0)  # noqa: S311, for a sample, not a secret
    is_local = not storage.is_remote(folder)
    for entry in list_entries(folder, exclude):
        counts = counts.with_entry(entry)
        if isinstance(entry, SkippedEntry | FailureRow):
            continue
        if is_local:
            read_bytes += _file_size(entry.image_uri)
        # Algorithm R (Vitter 1985, https://doi.org/10.1145/3147.3165): a sample in one pass.
        if len(sample) < SAMPLED_IMAGES:
            sample.append(entry)
            continue
        position = draw.randrange(counts.images)
        if position < SAMPLED_IMAGES:
            sample[position] = entry
    return _Folder(counts, sample, read_bytes if is_local else None)


def _file_size(image_uri: str) -> int:
    try:
        return os.path.getsize(local_path(image_uri))
    except OSError:
        # The run will make a failure row of it.
        return 0


class _CaptionedSample(NamedTuple):
    """The captioned images of the sample, and what they took.

    Args:
      images: The images that did not fail.
      file_bytes: The sizes of the files that could be read.
      image_s: The median time of an image, in seconds.
      first_batch_s: The seconds that the first batch took beyond the median.
    """

    images: list[CaptionedImage]
    file_bytes: list[int]
    image_s: float
    first_batch_s: float


def _caption_sample(
    handler: CaptionHandler,
    models: CaptioningModels,
    sample: Sequence[ImageRef],
    batch_size: int,
    options: RunOptions,
) -> _CaptionedSample:
    limits = options.limits
    file_bytes: list[int] = []

    def decode(ref: ImageRef) -> decoding.DecodedImage | None:
        """Returns the decoded image, or None if it fails."""
        try:
            data = read_bytes(ref.image_uri, limits.max_bytes, options.images)
            file_bytes.append(len(data))
            pixels, width, height = decoder_pool.decode(
                data,
                size=INPUT_SIZE,
                max_pixels=limits.max_pixels,
                max_seconds=limits.max_seconds,
            )
        except ImageError:
            return None
        return decoding.DecodedImage(ref, hashlib.sha256(data).hexdigest(), width, height, pixels)

    images: list[CaptionedImage] = []
    seconds_per_image: list[float] = []
    batch_started = time.perf_counter()
    decoded = ordered_map(decode, sample, prefetch=batch_size)
    for _ in range(0, len(sample), batch_size):
        listed = list(itertools.islice(decoded, batch_size))
        batch = [image for image in listed if image is not None]
        if batch:
            images.extend(handler.run_inference(batch, models))
        batch_ended = time.perf_counter()
        seconds_per_image.append((batch_ended - batch_started) / len(listed))
        batch_started = batch_ended
    if not seconds_per_image:
        return _CaptionedSample(images, file_bytes, image_s=0.0, first_batch_s=0.0)
    image_s = float(np.median(seconds_per_image[1:] or seconds_per_image))
    first_batch_s = max(0.0, (seconds_per_image[0] - image_s) * batch_size)
    return _CaptionedSample(images, file_bytes, image_s, first_batch_s)


class _MatchingTimes(NamedTuple):
    """The time that matching takes.

    Args:
      caption_s: The seconds that encoding a caption takes.
      pair_s: The seconds that comparing a pair takes.
    """

    caption_s: float
    pair_s: float


def _time_matching(
    encoder: TextEncoder, captions: Sequence[str], options: RunOptions
) -> _MatchingTimes:
    """Matches captions that are made of the sample's, enough of them to measure a pair."""
    if not captions:
        return _MatchingTimes(0.0, 0.0)
    texts = [f"{captions[number % len(captions)]} {number}" for number in range(_TIMED_CAPTIONS)]
    records = make_records(texts, texts, [GENERATED] * len(texts))
    started = time.perf_counter()
    queries = make_caption_set(records, encoder, searched=True)
    encoded = time.perf_counter()
    search = Search(
        encoder.calibration, np.float32(options.threshold), candidate_count(options.top_k)
    )
    search_started = time.perf_counter()
    search.run(queries, group_images(queries), queries)
    search_s = time.perf_counter() - search_started
    return _MatchingTimes((encoded - started) / _TIMED_CAPTIONS, search_s / _TIMED_CAPTIONS**2)


def _finish_seconds(images: Sequence[CaptionedImage], options: RunOptions) -> float:
    """Returns the seconds that matching and reporting the sample takes.

    A whole run takes at least as long, since most of it does not depend on the number of images.
    """
    with tempfile.TemporaryDirectory() as output:
        options = dataclasses.replace(options, output=output, index=(), plan=False)
        manifest = _commit_captions(images, options)
        started = time.perf_counter()
        with hide_progress():
            match_captions.execute(options.match_options(), (), manifest)
        write_report(options.layout.run_dir)
        return time.perf_counter() - started


def _commit_captions(images: Sequence[CaptionedImage], options: RunOptions) -> commits.Manifest:
    """Writes the captioned sample as the caption stage of a run would."""
    run = commits.begin_attempt(options.layout)
    _stage_rows(run, layout.CAPTIONS, [image.caption for image in images])
    _stage_rows(run, layout.FEATURES, [image.features for image in images])
    _stage_rows(run, layout.FAILURES, [])
    return commits.commit_stage(
        run,
        commits.new_manifest(options.layout),
        layout.CAPTION,
        wall_time_s=0.0,
        options=dataclasses.asdict(options.caption_options()),
        counts=ListingCounts(images=len(images)).as_manifest(),
        complete=False,
    )


def _stage_rows(run: layout.RunLayout, name: str, rows: Sequence[Row]) -> None:
    part = layout.join(run.staged_table(name), "part.parquet")
    with storage.output_stream(part) as stream:
        pq.write_table(rows_as_table(rows, run.run_id, TABLE_SCHEMAS[name]), stream)
    commits.record_staged_parts(run, name, "part", [part])


def _size_text(size: float) -> str:
    if size < 1000:
        return f"{size:,.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:,.1f} {unit}"
    return f"{size / 1000:,.1f} TB"


def _time_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
