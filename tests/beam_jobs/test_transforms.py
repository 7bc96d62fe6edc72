"""The transforms of the jobs that read images, each in a pipeline of its own."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.transforms import DecodeImages, ReadImageList
from captioner_core.options import ImageLimits
from captioner_core.runs.image_list import write_image_list
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import ImageRef
from tests.image_files import encoded, picture

LIMITS = ImageLimits(max_pixels=10**8, max_bytes=10**8, max_seconds=60)


def test_the_list_of_images_is_read_as_it_was_written(tmp_path):
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.png", "notes.txt"):
        (tmp_path / "photos" / name).touch()
    run = RunLayout(str(tmp_path), "run")
    files, _ = write_image_list(str(tmp_path / "photos"), run)
    with TestPipeline() as pipeline:
        refs, failed = pipeline | ReadImageList(files)
        image_ids = refs | "ImageIds" >> beam.FlatMap(lambda group: [ref.image_id for ref in group])
        assert_that(image_ids, equal_to(["a.jpg", "deep/b.png"]), label="Refs")
        assert_that(failed, equal_to([]), label="Failed")


def test_each_image_becomes_pixels_or_a_failure(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(picture(), "PNG"))
    (tmp_path / "bad.png").write_bytes(b"%PDF-1.7")
    refs = [ImageRef(name, str(tmp_path / name)) for name in ("good.png", "bad.png", "gone.png")]
    with TestPipeline() as pipeline:
        listed = pipeline | beam.Create([refs])
        decoded, cached, failed = listed | DecodeImages(str(tmp_path), 8, LIMITS)
        sizes = decoded | "Sizes" >> beam.Map(
            lambda image: (image.ref.image_id, image.pixels.shape, image.width, image.height)
        )
        reasons = failed | "Reasons" >> beam.Map(lambda row: (row.image_id, row.error_type))
        assert_that(sizes, equal_to([("good.png", (8, 8, 3), 64, 48)]), label="Decoded")
        assert_that(
            reasons,
            equal_to([("bad.png", "unsupported_format"), ("gone.png", "unreadable")]),
            label="Failed",
        )
        assert_that(cached, equal_to([]), label="Cached")
