"""The programs that the tasks of each DAG start, and their arguments.

The DAGs run in a real Airflow. A recorder stands in for the interpreter of the jobs: it notes the
arguments of each call and prints prepared answers.
"""

from __future__ import annotations

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.launch import check_pipeline_args
from captioner_airflow.caption_run import CaptionRun
from captioner_airflow.runners import RUNNERS, RunnerSettings, make_beam_arguments
from captioner_airflow.train_run import TrainRun
from captioner_core.errors import CaptionerError
from captioner_core.options import add_arguments, arguments_of, from_namespace
from tests.dags.conftest import LOAD
from tests.kubernetes.fake_cluster import cluster

__all__ = ["cluster"]

CAPTION = {
    "images": "in",
    "output": "out",
    "model": "pretrained",
    "threshold": 0.9,
    "top_k": 10,
    "beam_width": None,
    "runner": "DirectRunner",
    "only_failures": False,
    "run_id": None,
    "index": [],
    "encoder": "learned",
}
TRAIN = {
    "dataset": "sample",
    "limit": None,
    "output": "out",
    "margin": 0.0,
    "epochs": 15,
    "workers": 1,
    "launcher": "local",
    "runner": "DirectRunner",
    "reinforce_epochs": 0,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "dropout": 0.4,
    "seed": 0,
}
# Settings of the runners that require some.
SETTINGS = RunnerSettings(
    {
        "FlinkRunner": {
            "flink_master": "host:8081",
            "environment_type": "EXTERNAL",
            "parallelism": 8,
        },
        "SparkRunner": {"spark_master_url": "spark://host:7077", "environment_type": "PROCESS"},
        "DataflowRunner": {
            "project": "p",
            "region": "europe-west1",
            "temp_location": "gs://b/tmp",
            "sdk_container_image": "image:1",
            "dataflow_service_options": [
                "worker_accelerator=type:nvidia-l4;count:1",
                "enable_prime",
            ],
        },
    }
)
text = st.text(
    st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), min_size=1, max_size=30
)


def parse_arguments_of(options, beam=()):
    """Returns the options that a job parses from the arguments made of some options."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, type(options))
    namespace, rest = parser.parse_known_args([*arguments_of(options), *beam])
    assert rest == list(beam)
    check_pipeline_args(parser, rest)  # refuses anything but options of Beam
    return from_namespace(type(options), namespace)


@pytest.mark.parametrize("runner", RUNNERS)
@given(
    images=text,
    index=st.lists(text, max_size=3),
    model=text,
    threshold=st.floats(-1, 1),
    top_k=st.integers(0, 10_000),
    beam_width=st.none() | st.integers(1, 20),
    only_failures=st.booleans(),
)
def test_jobs_parse_the_arguments_of_a_caption_run_into_the_same_options(runner, **fields):
    run = CaptionRun({**CAPTION, **fields}, "manual__2026-01-01T00:00:00+00:00")
    beam = make_beam_arguments(runner, SETTINGS)
    for options in (
        run.run_options(check=True),
        run.extract_options(),
        run.caption_options(),
        run.match_options(),
    ):
        assert parse_arguments_of(options, beam) == options
        assert options.layout == run.layout


@given(
    dataset=text,
    margin=st.floats(-1, 1),
    epochs=st.integers(1, 10_000),
    learning_rate=st.floats(1e-8, 1),
    workers=st.integers(1, 64),
)
def test_jobs_parse_the_arguments_of_a_training_into_the_same_options(**fields):
    run = TrainRun({**TRAIN, **fields}, "scheduled__2026-01-01")
    for options in (run.extract_options(), run.train_options(), run.gate_options()):
        assert parse_arguments_of(options) == options


def test_each_airflow_run_has_a_folder_of_its_own():
    """Concurrent runs on one folder of images must not mix."""
    names = [
        "manual__2026-01-01T00:00:00+00:00",
        "manual__2026-01-01T00:00:00-00:00",
        "manual__2026-01-01T00-00-00-00-00",
    ]
    assert len({CaptionRun(CAPTION, name).layout.run_dir for name in names}) == 3
    assert CaptionRun({**CAPTION, "run_id": "mine"}, names[0]).run_id == "mine"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "FlinkRunner",
            {},
            "runner 'FlinkRunner' needs 'flink_master'; "
            "set it in the Airflow Variable captioner_runners",
        ),
        ("x", {}, "runner 'x' is unknown; choose one of DirectRunner, FlinkRunner"),
        ("DirectRunner", {"Flink": {}}, "runner 'Flink' is unknown; name one of"),
        ("DirectRunner", {"FlinkRunner": "host"}, "not an object of options; write it as"),
    ],
)
def test_a_runner_that_is_not_configured_is_refused_in_one_line(name, settings, message):
    with pytest.raises(CaptionerError, match=message) as caught:
        make_beam_arguments(name, RunnerSettings(settings))
    assert "\n" not in str(caught.value)


def test_a_parameter_is_one_argument_whatever_it_contains(airflow):
    hostile = '"; touch x; echo $(id) `id`\n--help'
    conf = {
        "images": hostile,
        "output": "out",
        "model": "m",
        "index": ["a b"],
        "run_id": "r1",
        "beam_width": 4,
    }
    state, _ = airflow.run_dag("caption_folder", conf)
    assert state == "success"
    calls = airflow.calls()
    programs = [call[:2] if call[0] == "captioner_cli" else call[:1] for call in calls]
    assert programs == [
        ["captioner_cli", "run"],
        ["beam_jobs.extract_features"],
        ["captioner_cli", "manifest"],
        ["beam_jobs.caption_images"],
        ["captioner_cli", "manifest"],
        ["beam_jobs.match_captions"],
        ["captioner_cli", "manifest"],
        ["captioner_cli", "verify"],
        ["captioner_cli", "report"],
    ]
    check, extract, _, caption, _, match, *rest = calls
    assert {f"--images={hostile}", "--check", "--index=a b"} <= set(check)
    assert extract[-1] == "--runner=FnApiRunner"
    assert {"--from-features", "--beam-width=4", "--model=m"} <= set(caption)
    assert {
        "--index=a b",
        "--index=out/runs/r1/captions",
        "--captions=out/runs/r1/captions",
    } <= set(match)
    assert rest[1:] == [
        ["captioner_cli", "verify", "out/runs/r1"],
        ["captioner_cli", "report", "out/runs/r1"],
    ]
    assert not list(airflow.home.glob("x"))


def test_only_failures_requires_a_run_id(airflow):
    state, tasks = airflow.run_dag(
        "caption_folder", {"images": "in", "output": "out", "only_failures": True}
    )
    assert (state, tasks["extract_features"]) == ("failed", "failed")
    assert airflow.calls() == []
    conf = {"images": "in", "output": "out", "only_failures": True, "run_id": "r1"}
    assert airflow.run_dag("caption_folder", conf)[0] == "success"
    assert "--only-failures" in airflow.calls()[1]


def test_a_model_that_the_gate_stops_is_not_promoted(airflow):
    airflow.answer(exit={"captioner_cli gate": 1})
    state, tasks = airflow.run_dag("train_captioner", {"output": "out", "workers": 2, "epochs": 3})
    assert (state, tasks["gate"], tasks["promote"]) == ("failed", "failed", "upstream_failed")
    calls = airflow.calls()
    assert [
        calls[3][0],
        *(argument for argument in calls[3] if argument.startswith(("--epochs", "--workers"))),
    ] == ["captioner_core.training", "--epochs=3", "--workers=2"]
    assert not any(call[1] == "promote" for call in calls)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_training_on_kubernetes_continues_to_the_gate(airflow, cluster, deferrable):
    """The task waits, or is deferred and resumed, while pods train."""
    cluster.fates = ["complete"]
    values = {
        "image": "captioner:1",
        "claim": "models",
        "namespace": "ns",
        "poll_interval_s": 0.05,
        "deferrable": deferrable,
    }
    code = f"""
from airflow.models import Variable
Variable.set("captioner_kubernetes", {values!r}, serialize_json=True)
"""
    airflow.run(code)
    conf = {"dataset": "/data/d", "output": "/data/out", "workers": 2, "launcher": "kubernetes"}
    _, tasks = airflow.run_dag("train_captioner", conf)
    assert (tasks["train"], tasks["gate"]) == ("success", "success")
    programs = {call[0] for call in airflow.calls()}
    assert "captioner_core.training" not in programs, "no local process trains"
    job, service = cluster.created
    assert (job["spec"]["completions"], service["spec"]["clusterIP"]) == (2, "None")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--dataset=/data/d" in arguments
    assert "--batch-size=16" not in arguments, "defaults are omitted"


def test_a_launcher_that_is_not_configured_fails_the_task(airflow):
    airflow.run("""
from airflow.models import Variable
Variable.set("captioner_kubernetes", {"image": "captioner:1"}, serialize_json=True)
""")
    state, tasks = airflow.run_dag(
        "train_captioner", {"dataset": "/data/d", "output": "/data/o", "launcher": "kubernetes"}
    )
    assert (state, tasks["train"]) == ("failed", "failed")


def test_a_complete_folder_gets_one_run(airflow):
    folders = [
        {"folder": "a b", "uri": "/in/a b", "run_id": "a-b-1", "state": "ready", "reason": ""},
        {
            "folder": "late",
            "uri": "/in/late",
            "run_id": "late",
            "state": "waiting",
            "reason": "changed 20 s ago",
        },
        {"folder": "old", "uri": "/in/old", "run_id": "old", "state": "done", "reason": ""},
    ]
    airflow.answer(inbox=folders)
    code = """
import json
from airflow.models import Variable
value = {"inbox": "/in", "output": "/out", "caption": {"model": "m"}}
Variable.set("captioner_inbox", value, serialize_json=True)
run = bag.dags["watch_inbox"].test()
task = run.get_task_instance("find_folders")
print("FOUND", json.dumps(task.xcom_pull(task_ids="find_folders")))
"""
    output = airflow.run(LOAD + code)
    (call,) = airflow.calls()
    assert call[:2] == ["captioner_cli", "inbox"]
    assert {"--inbox=/in", "--output=/out", "--json"} <= set(call)
    assert "late: waiting changed 20 s ago" in output
    starts = json.loads(next(line for line in output.splitlines() if line.startswith("FOUND "))[6:])
    conf = {"model": "m", "images": "/in/a b", "output": "/out", "run_id": "a-b-1"}
    assert starts == [{"trigger_run_id": "inbox__a-b-1", "conf": conf}]


def test_a_missing_inbox_is_reported_before_work_starts(airflow):
    code = """
from airflow.models import Variable
Variable.delete("captioner_inbox")
bag.dags["watch_inbox"].test()
"""
    assert "no inbox is set; set the Airflow Variable captioner_inbox" in airflow.run(LOAD + code)
    assert airflow.calls() == []
