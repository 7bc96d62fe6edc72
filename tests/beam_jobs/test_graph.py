"""The jobs' graphs, as any runner gets them: built and looked at, with no runner at work."""

from __future__ import annotations

import functools

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from beam_jobs import caption_images, extract_features, match_captions
from beam_jobs.image_stage import ImageStage
from beam_jobs.match_transforms import INDEX, QUERY, MatchPlan
from captioner_core.captioning.captioning_models import load_models
from captioner_core.errors import CaptionerError
from captioner_core.features.base import load_backbone
from captioner_core.images.listing import ListingCounts
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions
from captioner_core.runs.image_list import write_image_list
from captioner_core.tables.layout import RunLayout

# Dataflow refuses a job of more than 10 MB, and every engine sends the graph to every worker
MOST_BYTES = 300_000
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=some-project",
    "--region=europe-west1",
    "--temp_location=gs://some-bucket/temporary",
    "--staging_location=gs://some-bucket/staging",
    "--sdk_container_image=europe-docker.pkg.dev/some-project/captioner/captioner:0.1.0",
]


@pytest.fixture
def listed(tmp_path):
    """Makes the listing of a folder of so many images."""

    def listing(images):
        folder = tmp_path / str(images)
        folder.mkdir()
        for number in range(images):
            (folder / f"{number}.jpg").touch()
        return write_image_list(str(folder), RunLayout(str(tmp_path), "run"))[0]

    return listing


def stage_of(options, files):
    """A stage whose images are listed, for its graph alone."""
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


def extract(pipeline, root, listing):
    options = ExtractOptions(images="images", output=root)
    load = functools.partial(load_backbone, options.backbone, "float32")
    extract_features.build(pipeline, options, stage_of(options, listing), load)


def caption(pipeline, root, listing):
    options = CaptionOptions(images="images", output=root)
    load = functools.partial(load_models, options.backbone, options.model, 3)
    caption_images.build(pipeline, options, stage_of(options, listing), load)


def match(pipeline, root, _listing):
    plan = MatchPlan(
        **{
            "sets_dir": f"{root}/sets",
            "image_vectors_dir": f"{root}/image_vectors",
            "encoder": "learned",
            "threshold": 0.9,
            "top_k": 10,
        },
        **{
            "combined": False,
            "captions": (),
            "index": (),
            "collections": {},
            "index_splits": (),
            "n_image_partitions": 4,
        },
        n_sets={QUERY: 2, INDEX: 3},
    )
    match_captions.build(pipeline, RunLayout(root, "run"), plan)


JOBS = pytest.mark.parametrize("job", [extract, caption, match])


def graph(job, root, listing):
    """The job as a protocol buffer, without its environment, which tells of this machine."""
    options = PipelineOptions(DATAFLOW[4:], setup_file=None)
    pipeline = beam.Pipeline(runner="FnApiRunner", options=options)
    job(pipeline, root, listing)
    return pipeline.to_runner_api()


def test_dataflow_accepts_the_options():
    options = PipelineOptions([*DATAFLOW, "--gcp_oauth_scopes=none"])
    complaints = PipelineOptionsValidator(
        options, DataflowRunner.__new__(DataflowRunner)
    ).validate()
    assert [one for one in complaints if "bucket" not in one.lower()] == [], (
        "buckets are looked up, others are not"
    )


@JOBS
def test_a_graph_does_not_grow_with_the_images(job, listed, tmp_path):
    few, many = (
        len(graph(job, "gs://b/out", listed(images)).SerializeToString()) for images in (3, 3000)
    )
    assert many == pytest.approx(few, abs=200)
    assert many < MOST_BYTES


@JOBS
def test_keys_are_coded_the_same_everywhere(job, listed):
    """Equal keys that two workers write as different bytes would not meet."""
    made = graph(job, "gs://b/out", listed(3))
    groupings = [
        step
        for step in made.components.transforms.values()
        if step.spec.urn == "beam:transform:group_by_key:v1"
    ]
    assert groupings
    for step in groupings:
        (source,) = step.inputs.values()
        coder = made.components.coders[made.components.pcollections[source].coder_id]
        assert coder.spec.urn == "beam:coder:kv:v1", step.unique_name
        key = made.components.coders[coder.component_coder_ids[0]]
        coded = (
            key.spec.payload
            if key.spec.urn == "beam:coder:pickled_python:v1"
            else key.spec.urn.encode()
        )
        assert coded == b"beam:coder:varint:v1" or b"DeterministicFastPrimitivesCoder" in coded, (
            step.unique_name
        )


@pytest.mark.parametrize("job", [extract, caption])
def test_rows_go_from_image_to_file_in_one_stage(job, listed):
    """Clusters cut a job before a step with a side input: rows of features would go through their shuffle."""
    made = graph(job, "gs://b/out", listed(3))
    for step in made.components.transforms.values():
        if step.spec.urn == "beam:transform:pardo:v1" and "GatherNames" not in step.unique_name:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            assert not payload.side_inputs, step.unique_name


@JOBS
def test_nothing_of_this_machine_is_in_a_graph(job, tmp_path):
    listing = [("gs://b/listing.parquet", 3)]
    sent = graph(job, "gs://b/out", listing).SerializeToString()
    for place in (str(tmp_path), "/home/", "/tmp/", "site-packages"):
        assert place.encode() not in sent, place


@pytest.mark.parametrize("name", ["images", "output", "model"])
def test_a_relative_path_is_refused_where_workers_would_look_elsewhere(name, tmp_path):
    places = {
        "images": str(tmp_path),
        "output": str(tmp_path / "out"),
        "model": "pretrained",
        name: "some/where",
    }
    with pytest.raises(CaptionerError, match=f"--{name} 'some/where' is relative"):
        caption_images.run(CaptionOptions(**places), ["--runner=FlinkRunner"])
    assert not (tmp_path / "out").exists()


def test_a_relative_table_is_refused_too(tmp_path):
    asked = MatchOptions(captions=("out/captions",), index=(str(tmp_path),), output=str(tmp_path))
    with pytest.raises(CaptionerError, match="--captions 'out/captions' is relative"):
        match_captions.run(asked, ["--runner=SparkRunner"])
