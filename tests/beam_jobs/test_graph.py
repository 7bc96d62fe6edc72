"""The graphs of the jobs, as every runner receives them.

The tests build each job's graph and inspect it without running it: its size, the coders of its
keys, its side inputs, and whether it names anything that exists only on this machine.
"""

from __future__ import annotations

import functools
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from beam_jobs import caption_images, extract_features, match_captions
from beam_jobs.image_stage import ImageStage
from beam_jobs.match_transforms import INDEX, QUERY, MatchPlan
from beam_jobs.workflows.run import plan_run
from captioner_core.captioning.captioning_models import load_models
from captioner_core.errors import CaptionerError
from captioner_core.features.base import load_backbone
from captioner_core.images.listing import ListingCounts
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions, RunOptions
from captioner_core.runs.image_list import write_image_list
from captioner_core.tables.layout import RunLayout

# Dataflow refuses a job of more than 10 MB, and every engine sends the graph to every worker.
MAX_GRAPH_BYTES = 300_000
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=some-project",
    "--region=europe-west1",
    "--temp_location=gs://some-bucket/temporary",
    "--staging_location=gs://some-bucket/staging",
    "--sdk_container_image=europe-docker.pkg.dev/some-project/captioner/captioner:0.1.0",
]


@pytest.fixture
def make_image_list(tmp_path):
    """Returns a function that lists a folder of the given number of empty image files."""

    def make(images):
        folder = tmp_path / str(images)
        folder.mkdir()
        for number in range(images):
            (folder / f"{number}.jpg").touch()
        return write_image_list(str(folder), RunLayout(str(tmp_path), "run"))[0]

    return make


def make_stage(options, files):
    """Returns an image stage that suffices to build a graph, but can't run."""
    return ImageStage(
        name="extract",
        options=options,
        pipeline_args=(),
        run=options.layout,
        files=files,
        counts=ListingCounts(),
        retried=None,
        cache=None,
        started=0.0,
    )


def extract(pipeline, root, files):
    """Adds the steps of the extract job to a pipeline."""
    options = ExtractOptions(images="images", output=root)
    load = functools.partial(load_backbone, options.backbone, "float32")
    extract_features.build(pipeline, options, make_stage(options, files), load)


def caption(pipeline, root, files):
    """Adds the steps of the caption job to a pipeline."""
    options = CaptionOptions(images="images", output=root)
    load = functools.partial(load_models, options.backbone, options.model, 3)
    caption_images.build(pipeline, options, make_stage(options, files), load)


def match(pipeline, root, _files):
    """Adds the steps of the match job to a pipeline."""
    plan = MatchPlan(
        sets_dir=f"{root}/sets",
        image_vectors_dir=f"{root}/image_vectors",
        encoder="learned",
        threshold=0.9,
        top_k=10,
        combined=False,
        captions=(),
        index=(),
        collections={},
        index_splits=(),
        min_confidence=0.0,
        n_image_partitions=4,
        n_sets={QUERY: 2, INDEX: 3},
    )
    match_captions.build(pipeline, RunLayout(root, "run"), plan)


JOBS = pytest.mark.parametrize("job", [extract, caption, match])


def build_graph(job, root, files):
    """Returns a job as the protocol buffer that is sent to a runner."""
    options = PipelineOptions(DATAFLOW[4:], setup_file=None)
    pipeline = beam.Pipeline(runner="FnApiRunner", options=options)
    job(pipeline, root, files)
    return pipeline.to_runner_api()


def test_dataflow_accepts_the_documented_options():
    options = PipelineOptions([*DATAFLOW, "--gcp_oauth_scopes=none"])
    runner = DataflowRunner.__new__(DataflowRunner)
    errors = PipelineOptionsValidator(options, runner).validate()
    # The validator looks buckets up, which it can't do here.
    assert [error for error in errors if "bucket" not in error.lower()] == []


@JOBS
def test_a_graph_does_not_grow_with_the_number_of_images(job, make_image_list):
    small = build_graph(job, "gs://b/out", make_image_list(3)).SerializeToString()
    large = build_graph(job, "gs://b/out", make_image_list(3000)).SerializeToString()
    assert len(large) == pytest.approx(len(small), abs=200)
    assert len(large) < MAX_GRAPH_BYTES


@JOBS
def test_every_worker_encodes_equal_keys_as_the_same_bytes(job, make_image_list):
    """A grouping would otherwise keep equal keys of two workers apart."""
    graph = build_graph(job, "gs://b/out", make_image_list(3))
    groupings = [
        step
        for step in graph.components.transforms.values()
        if step.spec.urn == "beam:transform:group_by_key:v1"
    ]
    assert groupings
    for step in groupings:
        (source,) = step.inputs.values()
        coder = graph.components.coders[graph.components.pcollections[source].coder_id]
        assert coder.spec.urn == "beam:coder:kv:v1", step.unique_name
        key = graph.components.coders[coder.component_coder_ids[0]]
        coded = (
            key.spec.payload
            if key.spec.urn == "beam:coder:pickled_python:v1"
            else key.spec.urn.encode()
        )
        assert coded == b"beam:coder:varint:v1" or b"DeterministicFastPrimitivesCoder" in coded, (
            step.unique_name
        )


@pytest.mark.parametrize("job", [extract, caption])
def test_rows_go_from_image_to_file_in_one_stage(job, make_image_list):
    """A cluster ends a stage before a step with a side input, and shuffles the rows there."""
    graph = build_graph(job, "gs://b/out", make_image_list(3))
    for step in graph.components.transforms.values():
        if step.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            assert not payload.side_inputs, step.unique_name


@JOBS
def test_a_graph_contains_no_path_of_this_machine(job, tmp_path):
    files = [("gs://b/listing.parquet", 3)]
    sent = build_graph(job, "gs://b/out", files).SerializeToString()
    for path in (str(tmp_path), "/home/", "/tmp/", "site-packages"):
        assert path.encode() not in sent, path


@pytest.mark.parametrize("name", ["images", "output", "model"])
def test_a_relative_path_is_refused_because_workers_have_another_folder(name, tmp_path):
    paths: dict[str, Any] = {
        "images": str(tmp_path),
        "output": str(tmp_path / "out"),
        "model": "pretrained",
        name: "some/where",
    }
    with pytest.raises(CaptionerError, match=f"--{name} 'some/where' is relative"):
        caption_images.run(CaptionOptions(**paths), ["--runner=FlinkRunner"])
    assert not (tmp_path / "out").exists()


def test_a_relative_captions_table_is_refused(tmp_path):
    options = MatchOptions(captions=("out/captions",), index=(str(tmp_path),), output=str(tmp_path))
    with pytest.raises(CaptionerError, match="--captions 'out/captions' is relative"):
        match_captions.run(options, ["--runner=SparkRunner"])


def test_a_relative_index_of_a_run_is_refused_before_its_images_are_read(tmp_path):
    options = RunOptions(
        images=str(tmp_path), output=str(tmp_path / "out"), index=("out/captions.parquet",)
    )
    with pytest.raises(CaptionerError, match=r"--index 'out/captions\.parquet' is relative"):
        plan_run(options, ["--runner=FlinkRunner"])
    assert not (tmp_path / "out").exists()
