"""Captions and matches made on Spark are what they are on one machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beam_jobs import caption_images, match_captions
from captioner_core.datasets import sample
from captioner_core.options import CaptionOptions, MatchOptions
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from tests.cluster.fetched import Missing
from tests.cluster.flink import REPOSITORY
from tests.cluster.spark import spark_arguments, spark_environment
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
IMAGES = 40


def test_the_same_tables(tmp_path):
    images, local, root = tmp_path / "dataset" / "images", tmp_path / "local", tmp_path / "spark"
    sample.build(images.parent, images=IMAGES)
    (images / "no image.jpg").write_text("hello")
    caption_images.run(CaptionOptions(images=str(images), output=str(local)))
    captions = f"{local}/runs/run/captions"
    match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=str(local)))
    try:
        arguments, environment = (
            spark_arguments(REPOSITORY / "setup.py"),
            spark_environment(tmp_path),
        )
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)
    captions = f"{root}/runs/run/captions"
    for job, asked in (
        ("caption_images", [f"--images={images}"]),
        ("match_captions", [f"--captions={captions}", f"--index={captions}"]),
    ):
        command = [sys.executable, "-m", f"beam_jobs.{job}", *asked, f"--output={root}", *arguments]
        done = subprocess.run(  # not in the sources: a worker's boot program writes a file where it is started
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    assert verify(f"{root}/runs/run") == []
    assert_same_tables(f"{root}/runs/run", f"{local}/runs/run", layout.TABLES)
