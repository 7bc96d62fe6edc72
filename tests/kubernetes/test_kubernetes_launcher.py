"""Training on Kubernetes: what is asked of the cluster, and what is done with its answers."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest

from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions, add_arguments, from_namespace
from captioner_core.training.distributed.cluster import read_cluster
from tests.kubernetes.fake_cluster import cluster

__all__ = ["cluster"]

ROOT = Path(__file__).parents[2]
LONGEST = "registry.example:5000/team/captioner@sha256:" + "0" * 64
GIVEN = {"image": LONGEST, "claim": "models", "namespace": "ns", "poll_interval_s": 0.01}
BASIC = {
    "dataset": "/data/dataset",
    "features": "/data/features",
    "output": "/data/models/Flickr_8k v2",
    "workers": 2,
}


@pytest.fixture(scope="module", autouse=True)
def _airflow_home(tmp_path_factory):
    """Before Airflow is imported, which looks for its configuration then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__WORKERS__API_RETRY_WAIT_MIN", "0.01")
        patch.setenv("AIRFLOW__WORKERS__API_RETRY_WAIT_MAX", "0.02")
        yield


def launcher(**settings):
    from captioner_airflow.launchers.kubernetes import KubernetesLauncher

    return KubernetesLauncher(**{**GIVEN, **settings})


def options(**values):
    return TrainOptions(**{**BASIC, **values})


def container(job):
    return job["spec"]["template"]["spec"]["containers"][0]


def expanded(argument, environment):
    """What Kubernetes makes of an argument: ``$(NAME)`` is a variable's value where there is one, ``$$`` is ``$``."""

    def value(match):
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, argument)


# Manifests


@pytest.mark.parametrize(
    "settings", [{}, {"gpus": 0, "service_account": "trainer", "mount_path": "/mnt/a/b"}]
)
def test_manifests_are_valid_and_say_what_was_set(settings):
    root = settings.get("mount_path", "/data")
    asked = options(
        **{name: f"{root}/{name}" for name in ("dataset", "features", "output")}, workers=4
    )
    job, service = launcher(**settings).manifests(asked, "dag/run/task/-1")
    for manifest in (job, service):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    assert (
        job["spec"]["completionMode"],
        job["spec"]["completions"],
        job["spec"]["parallelism"],
    ) == ("Indexed", 4, 4)
    limits = container(job)["resources"]["limits"]
    assert job["spec"]["backoffLimit"] == 0, (
        "one worker started anew would wait for those that miss it and end"
    )
    assert limits.get("nvidia.com/gpu") == (None if settings else "1")
    assert limits["memory"] == "8Gi", "the template's own limit is kept"
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy is refused otherwise"
    assert pod.get("serviceAccountName") == settings.get("service_account")
    mounts = {mount["name"]: mount["mountPath"] for mount in container(job)["volumeMounts"]}
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert [(mounts[name], claim) for name, claim in claims.items()] == [(root, "models")]
    assert service["spec"]["clusterIP"] == "None"
    assert (
        service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    )


@pytest.mark.parametrize("workers", [1, 3, 64])
@pytest.mark.parametrize("output", ["/data/m", "/data/" + "Very long_name." * 20])
def test_workers_find_each_other(workers, output):
    """By the names that the cluster gives to the pods of an Indexed Job and to its Service."""
    job, service = launcher().manifests(
        options(output=output, workers=workers, batch_size=192), "t"
    )
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    environment = {item["name"]: item["value"] for item in container(job)["env"]}
    hosts = [f"{name}-{index}" for index in range(workers)]
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", host) for host in hosts)
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert (job["metadata"]["namespace"], service["metadata"]["namespace"]) == (
        namespace,
        namespace,
    )
    for index, host in enumerate(hosts):
        cluster = read_cluster(
            {**environment, "HOSTNAME": host, "JOB_COMPLETION_INDEX": str(index)}
        )
        assert cluster.index == index
        assert cluster.workers == tuple(
            f"{host}.{service['metadata']['name']}:23456" for host in hosts
        )
    assert (
        container(job)["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == 23456
    )


def test_arguments_give_the_same_options_whatever_they_hold():
    hostile = '/data/"; touch x; echo $(id) `id` $(CAPTIONER_PORT) $$(HOME) {{ ti }}\n--help $'
    asked = options(
        dataset=hostile, mirrored="gs://b/f", learning_rate=0.1 + 0.2, batch_size=32, dropout=0.0
    )
    job, _ = launcher().manifests(asked, "t")
    assert container(job)["command"] == ["python", "-m", "captioner_core.training"]
    environment = {item["name"]: item["value"] for item in container(job)["env"]}
    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainOptions)
    given = from_namespace(
        TrainOptions, parser.parse_args([expanded(a, environment) for a in container(job)["args"]])
    )
    assert given == options(
        dataset=hostile,
        mirrored="gs://b/f",
        learning_rate=0.1 + 0.2,
        batch_size=32,
        dropout=0.0,
        workers=1,
    )


def test_one_model_folder_has_one_job_name():
    def name(claim="models", **values):
        return launcher(claim=claim).manifests(options(**values), "t")[0]["metadata"]["name"]

    same = {
        name(),
        name(output=BASIC["output"] + "/"),
        name(epochs=3, workers=1),
        name(output="/data/x/../models/Flickr_8k v2"),
    }
    assert len(same) == 1
    assert len({name(), name(output="/data/models/Flickr_8k v3"), name(claim="others")}) == 3


def test_own_template(tmp_path):
    template = tmp_path / "pod.yaml"
    template.write_text("""
apiVersion: v1
kind: Pod
metadata: {labels: {team: vision}, annotations: {note: kept}}
spec:
  nodeSelector: {pool: a100}
  containers:
  - name: train
    env: [{name: NCCL_DEBUG, value: INFO}, {name: CAPTIONER_PORT, value: "1"}]
    resources: {limits: {cpu: "8"}}
  - {name: other, image: other}
""")
    job, _ = launcher(pod_template=template).manifests(options(), "t")
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "vision"
    assert pod["nodeSelector"] == {"pool": "a100"}
    assert [item["name"] for item in pod["containers"]] == ["train", "other"]
    assert container(job)["resources"]["limits"] == {"cpu": "8", "nvidia.com/gpu": "1"}
    assert [
        item["value"] for item in container(job)["env"] if item["name"] == "CAPTIONER_PORT"
    ] == ["23456"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container(job)["env"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "kind: Job",
        "kind: Pod",
        "kind: Pod\nspec: {containers: [{name: base}]}",
        "kind: Pod\nspec: {hostNetwork: true, containers: [{name: train}]}",
    ],
)
def test_templates_that_can_not_be(tmp_path, text):
    template = tmp_path / "pod.yaml"
    template.write_text(text)
    with pytest.raises(CaptionerError, match=r"pod template .*; ") as raised:
        launcher(pod_template=template).manifests(options(), "t")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", ""),
        ("image", "a b"),
        ("claim", "A"),
        ("namespace", "a.b"),
        ("service_account", ""),
        ("mount_path", "data"),
        ("mount_path", "/"),
        ("mount_path", "/data/"),
        ("kubernetes_conn_id", ""),
        ("gpus", -1),
        ("gpus", True),
        ("backoff_limit", -1),
        ("active_deadline_s", 0),
        ("poll_interval_s", 0),
        ("poll_interval_s", float("nan")),
        ("port", 80),
        ("pod_template", "/nowhere.yaml"),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=f"^{name} .*; ") as raised:
        launcher(**{name: value})
    assert repr(value) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"output": "/elsewhere/model"}, "--output '/elsewhere/model' must lie below /data"),
        ({"output": "/data/../model"}, "--output"),
        ({"output": "gs://bucket/model"}, "--output"),
        ({"dataset": "dataset"}, "--dataset"),
        ({"mirrored": "/data2/features"}, "--mirrored"),
        ({"workers": 3}, "--batch-size 16 must be a multiple of the 3 replicas"),
    ],
)
def test_options_that_no_pod_could_train_with(values, said):
    with pytest.raises(CaptionerError, match=said):
        launcher().manifests(options(**values), "t")


# Without the provider

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        absent = ("kubernetes", "kubernetes_asyncio", "tensorflow", "apache_beam", "numpy", "pyarrow")
        of_provider = name.startswith("airflow.providers.cncf.kubernetes.") and not name.endswith(".get_provider_info")
        if of_provider or name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from types import SimpleNamespace
from captioner_airflow.launchers.kubernetes import KubernetesLauncher
from captioner_core.options import TrainOptions
launcher = KubernetesLauncher(image="i", claim="c")
options = TrainOptions(dataset="/data/d", features="/data/f", output="/data/o")
job, service = launcher.manifests(options, "t")
print(job["kind"], service["kind"])
try:
    launcher.launch(options, {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_dag_parses_without_the_provider_and_its_task_says_what_is_missing(tmp_path):
    env = {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, env=env, timeout=120
    )
    kinds, said = done.stdout.splitlines()[-2:]
    assert kinds == "Job Service", done.stderr[-2000:]
    assert said.startswith(
        "AirflowFailException the Kubernetes launcher needs Airflow's Kubernetes provider"
    )
    assert "apache-airflow-providers-cncf-kubernetes" in said


# Against a cluster


def test_the_documentation_lists_every_setting_with_its_default():
    text = (ROOT / "docs/kubernetes.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", text, re.M))
    settings = {field.name: field.default for field in dataclasses.fields(launcher()) if field.init}
    assert set(listed) == set(settings)
    for name in (
        "mount_path",
        "namespace",
        "kubernetes_conn_id",
        "gpus",
        "backoff_limit",
        "active_deadline_s",
        "port",
    ):
        assert listed[name].strip("`") == str(settings[name])
    for name in ("deferrable", "poll_interval_s"):
        assert json.loads(listed[name]) == settings[name]


def context(run_id="run-1", try_number=1):
    instance = SimpleNamespace(
        dag_id="dag", run_id=run_id, task_id="train", map_index=-1, try_number=try_number
    )
    return {"ti": instance, "run_id": run_id, "dag": SimpleNamespace(dag_id="dag")}


def holds(sent, wanted):
    """Whether what was sent says all that was wanted; it may say more."""
    if isinstance(wanted, dict):
        return all(key in sent and holds(sent[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(sent) == len(wanted) and all(map(holds, sent, wanted))
    return sent == wanted


def test_trains_with_the_manifests_and_tells_what_the_workers_say(cluster, capsys):
    cluster.fates = ["complete"]
    launcher().launch(options(), context())
    job, service = cluster.created
    wanted, wanted_service = launcher().manifests(options(), "dag/run-1/train/-1")
    assert holds(job, wanted)
    assert holds(service, wanted_service)
    kubernetes_validate.validate(
        {key: value for key, value in job.items() if key != "fate"},
        kubernetes_validate.latest_version(),
        strict=True,
    )
    (owner,) = service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        "Job",
        job["metadata"]["name"],
        job["metadata"]["uid"],
    )
    told = re.findall(r"\[worker (\d)\] \S+ says (\d)", capsys.readouterr().out)
    wanted = [(worker, str(line)) for line in range(len(told) // 2) for worker in "01"]
    assert len(told) >= 4, "the log is told while it trains"
    assert told == wanted, "each line once, however often the log is read"


def test_a_worker_that_fails_starts_all_anew(cluster):
    cluster.fates = [137, 1, "complete"]
    launcher(backoff_limit=2).launch(options(), context())
    kinds = [thing["kind"] for thing in cluster.created]
    assert kinds == ["Job", "Service"] * 3
    assert not cluster.overlaps, "no two Jobs may write one model folder"


def test_failing_too_often_is_said_with_the_workers_own_reason(cluster):
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    cluster.fates = [137, 137, "complete"]
    with pytest.raises(
        AirflowException,
        match="the last of 2 starts: worker 1 ended with exit code 137: the reason",
    ) as e:
        launcher(backoff_limit=1).launch(options(), context())
    assert not isinstance(e.value, AirflowFailException), (
        "Airflow may try again: it goes on from the checkpoint"
    )
    assert cluster.fates == ["complete"]


def test_bad_input_is_not_tried_again(cluster):
    from airflow.sdk.exceptions import AirflowFailException

    cluster.fates = [2, "complete"]
    with pytest.raises(
        AirflowFailException, match="refused its input: worker 1 ended with exit code 2: the reason"
    ):
        launcher(backoff_limit=5).launch(options(), context())
    assert cluster.fates == ["complete"]
    with pytest.raises(AirflowFailException, match="--output"):
        launcher().launch(options(output="elsewhere"), context())


def test_killed_in_the_task(cluster):
    """Airflow calls ``end`` from a signal handler, while ``launch`` waits; it then goes on, and must not start anew."""
    from airflow.sdk.exceptions import AirflowException

    here = launcher(backoff_limit=5)
    cluster.fates = ["run"]
    looks = []

    def kill(cluster, name):
        looks.append(name)
        if len(looks) == 4:
            threading.Thread(target=here.end).start()  # the fake cluster's own is about to answer

    cluster.on_look = kill
    with pytest.raises(AirflowException):
        here.launch(options(), context())
    name = cluster.created[0]["metadata"]["name"]
    assert ("jobs", name, "Foreground") in cluster.deleted
    assert len(cluster.created) == 2
    cluster.on_look = None
    for _ in range(4):
        cluster.look(name)
    assert (cluster.jobs, cluster.services, cluster.pods) == ({}, {}, {}), "nothing is left"


def test_killed_while_it_starts(cluster):
    """The signal may come before the cluster has answered that it has created the Job."""
    from airflow.sdk.exceptions import AirflowException

    from captioner_airflow.launchers.kubernetes_job import TrainingJobOperator

    here = launcher()
    cluster.fates = ["run"]
    with pytest.MonkeyPatch.context() as patch:
        create = TrainingJobOperator._create_service

        def create_and_be_killed(self):
            create(self)
            here.end()

        patch.setattr(TrainingJobOperator, "_create_service", create_and_be_killed)
        with pytest.raises(AirflowException, match="killed"):
            here.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted][:1] == ["jobs"]


def test_killed_before_the_answer_came(cluster):
    """The Job is there, and this process ends without having heard so."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    here = launcher()
    cluster.fates = ["run"]
    with pytest.MonkeyPatch.context() as patch:
        create = KubernetesHook.create_job

        def create_and_be_killed(self, job):
            create(self, job)
            here.end()
            raise SystemExit

        patch.setattr(KubernetesHook, "create_job", create_and_be_killed)
        with pytest.raises(SystemExit):
            here.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted] == ["jobs"]


def test_an_old_process_does_not_end_the_job_that_took_its_place(cluster):
    from airflow.sdk.exceptions import TaskDeferred

    cluster.fates = ["run", "run"]
    old, new = launcher(deferrable=True), launcher(deferrable=True)
    for here, number in ((old, 1), (new, 2)):
        with pytest.raises(TaskDeferred):
            here.launch(options(), context(try_number=number))
    deleted = len(cluster.deleted)
    old.end()
    assert len(cluster.deleted) == deleted
    new.end()
    assert len(cluster.deleted) == deleted + 1


def test_a_time_that_is_up_leaves_no_job(cluster):
    here = launcher()
    cluster.fates = ["run"]

    class TimeIsUp(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        from captioner_airflow.launchers.kubernetes_job import TrainingJobOperator

        def time_is_up(self):
            raise TimeIsUp

        patch.setattr(TrainingJobOperator, "tell", time_is_up)
        with pytest.raises(TimeIsUp):
            here.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted] == ["jobs"]


def test_a_retry_replaces_what_an_earlier_try_left(cluster):
    """Its process is gone without having been asked to end, and its workers still train."""
    from airflow.sdk.exceptions import TaskDeferred

    cluster.fates = ["run", "complete"]
    with pytest.raises(TaskDeferred):
        launcher(deferrable=True).launch(options(), context())
    first = cluster.created[0]
    cluster.look(first["metadata"]["name"])
    assert len(cluster.pods) == 1
    launcher().launch(options(), context(try_number=2))
    assert [thing["kind"] for thing in cluster.created] == ["Job", "Service"] * 2
    assert not cluster.overlaps
    (service,) = cluster.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == cluster.created[2]["metadata"]["uid"]


def test_a_service_that_outlived_its_job_is_replaced(cluster):
    """It would be collected soon, and with it the names by which the workers find each other."""
    from captioner_airflow.launchers.kubernetes_manifests import make_service

    job, _ = launcher().manifests(options(), "t")
    service = make_service(job, 23456, "jobs-gone")
    service["metadata"]["uid"] = "services-gone"
    cluster.services[job["metadata"]["name"]] = service
    cluster.fates = ["complete"]
    launcher().launch(options(), context())
    (service,) = cluster.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == cluster.created[0]["metadata"]["uid"]


def test_another_run_does_not_end_a_training_of_the_same_folder(cluster):
    from airflow.sdk.exceptions import AirflowException, TaskDeferred

    cluster.fates = ["run", "complete"]
    with pytest.raises(TaskDeferred):
        launcher(deferrable=True).launch(options(), context())
    with pytest.raises(AirflowException, match="dag/run-1/train/-1 still trains /data/models"):
        launcher().launch(options(), context(run_id="run-2"))
    assert not cluster.deleted
    cluster.look(name := cluster.created[0]["metadata"]["name"])
    cluster.jobs[name]["fate"] = "complete"
    cluster._end(cluster.jobs[name])
    launcher().launch(options(), context(run_id="run-2"))
    assert not cluster.overlaps


def test_no_job_without_its_service(cluster):
    from kubernetes.client.exceptions import ApiException

    cluster.allowed -= {("create", "services")}
    cluster.fates = ["run"]
    with pytest.raises(ApiException, match="services is forbidden"):
        launcher().launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted] == ["jobs"], (
        "its workers would wait for each other for ever"
    )


def test_a_job_that_someone_deletes_is_said(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = ["run"]

    def vanish(cluster, name):
        if name in cluster.jobs and cluster._looks.get(cluster.jobs[name]["metadata"]["uid"]) == 2:
            cluster.delete("jobs", name, {})

    cluster.on_look = vanish
    with pytest.raises(AirflowException, match="was deleted while it trained"):
        launcher().launch(options(), context())


# Deferred


def deferred(call):
    """The trigger with which a launch goes to wait, as the triggerer makes it anew from what was stored."""
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as raised:
        call()
    assert raised.value.method_name == "execute_complete"
    path, arguments = raised.value.trigger.serialize()
    module, name = path.rsplit(".", 1)
    return getattr(sys.modules[module], name)(**json.loads(json.dumps(arguments)))


def event_of(trigger):
    async def first():
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))

    return asyncio.run(first())


def test_deferred_it_starts_anew_and_ends(cluster, capsys):
    cluster.fates = [137, "complete"]
    event = event_of(deferred(lambda: launcher(deferrable=True).launch(options(), context())))
    again = deferred(lambda: launcher(deferrable=True).resume(context(), event))
    event = event_of(again)
    capsys.readouterr()
    launcher(deferrable=True).resume(context(), event)
    assert "says 0" in capsys.readouterr().out
    assert [thing["kind"] for thing in cluster.created] == ["Job", "Service"] * 2
    assert holds(cluster.created[2], launcher().manifests(options(), "dag/run-1/train/-1")[0])
    assert not cluster.overlaps


def test_deferred_starts_are_counted(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = [1, 1, "complete"]
    here = launcher(deferrable=True, backoff_limit=1)
    event = event_of(deferred(lambda: here.launch(options(), context())))
    event = event_of(deferred(lambda: here.resume(context(), event)))
    with pytest.raises(AirflowException, match="the last of 2 starts"):
        here.resume(context(), event)


def test_killed_while_deferred(cluster):
    """The provider's own trigger would leave the Job at work, with nobody to wait for it."""
    cluster.fates = ["run", "run"]
    trigger = deferred(lambda: launcher(deferrable=True).launch(options(), context()))
    asyncio.run(trigger.on_kill())
    name = cluster.created[0]["metadata"]["name"]
    assert cluster.deleted == [("jobs", name, "Foreground")]
    # cleared, the task may have begun anew before the triggerer ends what it waited for
    deferred(lambda: launcher(deferrable=True).launch(options(), context(try_number=2)))
    deleted = len(cluster.deleted)
    asyncio.run(trigger.on_kill())
    assert len(cluster.deleted) == deleted, "the new try's Job stays"


def test_a_deferred_job_that_someone_deletes_is_said(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = ["run"]
    trigger = deferred(lambda: launcher(deferrable=True).launch(options(), context()))
    cluster.jobs.clear()
    with pytest.raises(AirflowException, match="was deleted while it trained"):
        launcher(deferrable=True).resume(context(), event_of(trigger))
