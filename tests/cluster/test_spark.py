"""The caption and match jobs on Spark write the same tables as on one machine."""

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


def test_spark_writes_the_same_tables_as_one_machine(tmp_path):
    images = tmp_path / "dataset" / "images"
    local = tmp_path / "local"
    root = tmp_path / "spark"
    sample.build(images.parent, images=IMAGES)
    (images / "no image.jpg").write_text("hello")
    caption_images.run(CaptionOptions(images=str(images), output=str(local)))
    captions = f"{local}/runs/run/captions"
    match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=str(local)))
    try:
        arguments = spark_arguments(REPOSITORY / "setup.py")
        environment = spark_environment(tmp_path)
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)
    captions = f"{root}/runs/run/captions"
    for job, inputs in (
        ("caption_images", [f"--images={images}"]),
        ("match_captions", [f"--captions={captions}", f"--index={captions}"]),
    ):
        command = [sys.executable, "-m", f"beam_jobs.{job}", *inputs, f"--output={root}"]
        done = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,  # not the repository, since the boot program writes a file there
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    assert verify(f"{root}/runs/run") == []
    assert_same_tables(f"{root}/runs/run", f"{local}/runs/run", layout.TABLES)
