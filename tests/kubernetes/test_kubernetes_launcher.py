"""Training on Kubernetes: the manifests, and how the launcher follows the Job.

The manifests are validated against the schemas of Kubernetes. The launcher talks over HTTP to a
fake cluster, which lets Jobs fail, end and vanish as a test wants.
"""

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
LONG_IMAGE = "registry.example:5000/team/captioner@sha256:" + "0" * 64
SETTINGS = {"image": LONG_IMAGE, "claim": "models", "namespace": "ns", "poll_interval_s": 0.01}
BASIC = {
    "dataset": "/data/dataset",
    "features": "/data/features",
    "output": "/data/models/Flickr_8k v2",
    "workers": 2,
}


@pytest.fixture(scope="module", autouse=True)
def _airflow_home(tmp_path_factory):
    """Sets AIRFLOW_HOME before Airflow is imported, since Airflow reads its configuration then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__WORKERS__API_RETRY_WAIT_MIN", "0.01")
        patch.setenv("AIRFLOW__WORKERS__API_RETRY_WAIT_MAX", "0.02")
        yield


def launcher(**settings):
    """Returns a launcher with the usual settings of these tests and some others."""
    from captioner_airflow.launchers.kubernetes import KubernetesLauncher
    from captioner_airflow.launchers.kubernetes_settings import KubernetesSettings

    return KubernetesLauncher(KubernetesSettings(**{**SETTINGS, **settings}))


def options(**values):
    """Returns the usual training options of these tests with some others."""
    return TrainOptions(**{**BASIC, **values})


def container(job):
    """Returns the container that trains."""
    return job["spec"]["template"]["spec"]["containers"][0]


def expand(argument, environment):
    """Returns an argument as Kubernetes expands it.

    It replaces ``$(NAME)`` by the value of a variable, if that exists, and ``$$`` by ``$``.
    """

    def value(match):
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, argument)


# Manifests


@pytest.mark.parametrize(
    "settings", [{}, {"gpus": 0, "service_account": "trainer", "mount_path": "/mnt/a/b"}]
)
def test_manifests_are_valid_and_contain_the_settings(settings):
    root = settings.get("mount_path", "/data")
    paths = {name: f"{root}/{name}" for name in ("dataset", "features", "output")}
    job, service = launcher(**settings).make_manifests(
        options(**paths, workers=4), "dag/run/task/-1"
    )
    for manifest in (job, service):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    limits = container(job)["resources"]["limits"]
    assert spec["backoffLimit"] == 0, "a single restarted worker would wait for workers that end"
    assert limits.get("nvidia.com/gpu") == (None if settings else "1")
    assert limits["memory"] == "8Gi", "the template's own limit is kept"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy requires it"
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
    """The cluster names pods of an Indexed Job and its Service; workers rely on these names."""
    job, service = launcher().make_manifests(
        options(output=output, workers=workers, batch_size=192), "t"
    )
    name = job["metadata"]["name"]
    namespace = job["metadata"]["namespace"]
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
        assert cluster is not None
        assert cluster.index == index
        assert cluster.workers == tuple(
            f"{host}.{service['metadata']['name']}:23456" for host in hosts
        )
    assert (
        container(job)["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == 23456
    )


def test_workers_parse_their_arguments_into_the_same_options():
    hostile = '/data/"; touch x; echo $(id) `id` $(CAPTIONER_PORT) $$(HOME) {{ ti }}\n--help $'
    values = {
        "dataset": hostile,
        "mirrored": "gs://b/f",
        "learning_rate": 0.1 + 0.2,
        "batch_size": 32,
        "dropout": 0.0,
    }
    job, _ = launcher().make_manifests(options(**values), "t")
    assert container(job)["command"] == ["python", "-m", "captioner_core.training"]
    environment = {item["name"]: item["value"] for item in container(job)["env"]}
    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainOptions)
    arguments = [expand(argument, environment) for argument in container(job)["args"]]
    parsed = from_namespace(TrainOptions, parser.parse_args(arguments))
    assert parsed == options(**values, workers=1)


def test_one_model_folder_has_one_job_name():
    def name(claim="models", **values):
        return launcher(claim=claim).make_manifests(options(**values), "t")[0]["metadata"]["name"]

    same = {
        name(),
        name(output=f"{BASIC['output']}/"),
        name(epochs=3, workers=1),
        name(output="/data/x/../models/Flickr_8k v2"),
    }
    assert len(same) == 1
    assert len({name(), name(output="/data/models/Flickr_8k v3"), name(claim="others")}) == 3


def test_a_custom_template_is_kept_and_completed(tmp_path):
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
    job, _ = launcher(pod_template=template).make_manifests(options(), "t")
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
def test_unusable_templates_are_refused_in_one_line(tmp_path, text):
    template = tmp_path / "pod.yaml"
    template.write_text(text)
    with pytest.raises(CaptionerError, match=r"pod template .*; ") as raised:
        launcher(pod_template=template).make_manifests(options(), "t")
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
def test_bad_settings_are_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=f"^{name} .*; ") as raised:
        launcher(**{name: value})
    assert repr(value) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "/elsewhere/model"}, "--output '/elsewhere/model' must lie below /data"),
        ({"output": "/data/../model"}, "--output"),
        ({"output": "gs://bucket/model"}, "--output"),
        ({"dataset": "dataset"}, "--dataset"),
        ({"mirrored": "/data2/features"}, "--mirrored"),
        ({"workers": 3}, "--batch-size 16 must be a multiple of the 3 replicas"),
    ],
)
def test_options_that_no_pod_can_train_with_are_refused(values, message):
    with pytest.raises(CaptionerError, match=message):
        launcher().make_manifests(options(**values), "t")


# Without the provider

WITHOUT_PROVIDER = """
import sys
libraries = {
    "kubernetes", "kubernetes_asyncio", "tensorflow", "apache_beam", "numpy", "pyarrow"
}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        is_provider = name.startswith("airflow.providers.cncf.kubernetes.")
        is_info = name.endswith(".get_provider_info")
        if (is_provider and not is_info) or name.split(".")[0] in libraries:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from types import SimpleNamespace
from captioner_airflow.launchers.kubernetes import KubernetesLauncher
from captioner_airflow.launchers.kubernetes_settings import KubernetesSettings
from captioner_core.options import TrainOptions
launcher = KubernetesLauncher(KubernetesSettings(image="i", claim="c"))
options = TrainOptions(dataset="/data/d", features="/data/f", output="/data/o")
job, service = launcher.make_manifests(options, "t")
print(job["kind"], service["kind"])
instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
try:
    launcher.launch(options, {"ti": instance})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_the_provider_the_task_says_what_to_install(tmp_path):
    env = {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROVIDER],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    kinds, error = done.stdout.splitlines()[-2:]
    assert kinds == "Job Service", done.stderr[-2000:]
    assert error.startswith(
        "AirflowFailException the Kubernetes launcher needs Airflow's Kubernetes provider"
    )
    assert "apache-airflow-providers-cncf-kubernetes" in error


# Against a cluster


def test_the_documentation_lists_every_setting_with_its_default():
    text = (ROOT / "docs/kubernetes.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", text, re.M))
    settings = {field.name: field.default for field in dataclasses.fields(launcher().settings)}
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
    """Returns as much of an Airflow context as the launcher needs."""
    instance = SimpleNamespace(
        dag_id="dag", run_id=run_id, task_id="train", map_index=-1, try_number=try_number
    )
    return {"ti": instance, "run_id": run_id, "dag": SimpleNamespace(dag_id="dag")}


def contains(actual, expected):
    """Returns whether an object has all fields of another one; it may have more."""
    if isinstance(expected, dict):
        return all(key in actual and contains(actual[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(contains, actual, expected))
    return actual == expected


def test_it_trains_with_the_manifests_and_copies_the_logs(cluster, capsys):
    cluster.fates = ["complete"]
    launcher().launch(options(), context())
    job, service = cluster.created
    expected_job, expected_service = launcher().make_manifests(options(), "dag/run-1/train/-1")
    assert contains(job, expected_job)
    assert contains(service, expected_service)
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
    copied = re.findall(r"\[worker (\d)\] \S+ says (\d)", capsys.readouterr().out)
    expected = [(worker, str(line)) for line in range(len(copied) // 2) for worker in "01"]
    assert len(copied) >= 4, "lines are copied while it trains"
    assert copied == expected, "each line once, however often the log is read"


def test_a_failed_worker_restarts_all_workers(cluster):
    cluster.fates = [137, 1, "complete"]
    launcher(backoff_limit=2).launch(options(), context())
    kinds = [created["kind"] for created in cluster.created]
    assert kinds == ["Job", "Service"] * 3
    assert not cluster.overlaps, "no two Jobs may write one model folder"


def test_after_too_many_failures_the_error_contains_the_reason_of_the_worker(cluster):
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    cluster.fates = [137, 137, "complete"]
    with pytest.raises(
        AirflowException,
        match="in the last of 2 starts: worker 1 ended with exit code 137: the reason",
    ) as e:
        launcher(backoff_limit=1).launch(options(), context())
    assert not isinstance(e.value, AirflowFailException), "a retry continues from the checkpoint"
    assert cluster.fates == ["complete"]


def test_bad_input_is_not_retried(cluster):
    from airflow.sdk.exceptions import AirflowFailException

    cluster.fates = [2, "complete"]
    with pytest.raises(
        AirflowFailException, match="refused its input: worker 1 ended with exit code 2: the reason"
    ):
        launcher(backoff_limit=5).launch(options(), context())
    assert cluster.fates == ["complete"]
    with pytest.raises(AirflowFailException, match="--output"):
        launcher().launch(options(output="elsewhere"), context())


def test_a_kill_while_the_task_waits_deletes_the_job(cluster):
    """Airflow calls ``cancel`` from a signal handler; ``launch`` continues and must not restart."""
    from airflow.sdk.exceptions import AirflowException

    task_launcher = launcher(backoff_limit=5)
    cluster.fates = ["run"]
    looks = []

    def kill(cluster, name):
        looks.append(name)
        if len(looks) == 4:
            # in a thread, because the cluster holds its lock while this function runs
            threading.Thread(target=task_launcher.cancel).start()

    cluster.on_look = kill
    with pytest.raises(AirflowException):
        task_launcher.launch(options(), context())
    name = cluster.created[0]["metadata"]["name"]
    assert ("jobs", name, "Foreground") in cluster.deleted
    assert len(cluster.created) == 2
    cluster.on_look = None
    for _ in range(4):
        cluster.look(name)
    assert (cluster.jobs, cluster.services, cluster.pods) == ({}, {}, {}), "nothing remains"


def test_a_kill_during_the_start_deletes_the_job(cluster):
    """The signal can arrive between the creation of the Job and that of the Service."""
    from airflow.sdk.exceptions import AirflowException
    from kubernetes.client import CoreV1Api

    task_launcher = launcher()
    cluster.fates = ["run"]
    with pytest.MonkeyPatch.context() as patch:
        create = CoreV1Api.create_namespaced_service

        def create_and_kill(self, namespace, body):
            create(self, namespace, body)
            task_launcher.cancel()

        patch.setattr(CoreV1Api, "create_namespaced_service", create_and_kill)
        with pytest.raises(AirflowException, match="killed"):
            task_launcher.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted][:1] == ["jobs"]


def test_a_kill_before_the_answer_deletes_the_job(cluster):
    """The Job exists, but the process ends before it receives the answer."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    task_launcher = launcher()
    cluster.fates = ["run"]
    with pytest.MonkeyPatch.context() as patch:
        create = KubernetesHook.create_job

        def create_and_kill(self, job):
            create(self, job)
            task_launcher.cancel()
            raise SystemExit

        patch.setattr(KubernetesHook, "create_job", create_and_kill)
        with pytest.raises(SystemExit):
            task_launcher.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted] == ["jobs"]


def test_an_old_process_does_not_delete_the_job_that_replaced_its_own(cluster):
    from airflow.sdk.exceptions import TaskDeferred

    cluster.fates = ["run", "run"]
    old = launcher(deferrable=True)
    new = launcher(deferrable=True)
    for process, try_number in ((old, 1), (new, 2)):
        with pytest.raises(TaskDeferred):
            process.launch(options(), context(try_number=try_number))
    deleted = len(cluster.deleted)
    old.cancel()
    assert len(cluster.deleted) == deleted
    new.cancel()
    assert len(cluster.deleted) == deleted + 1


def test_a_timeout_of_the_task_deletes_the_job(cluster):
    task_launcher = launcher()
    cluster.fates = ["run"]

    class Timeout(BaseException):
        """Stands in for the exception of an execution_timeout."""

    with pytest.MonkeyPatch.context() as patch:
        from captioner_airflow.launchers.kubernetes_logs import WorkerLogs

        def raise_timeout(self):
            raise Timeout

        patch.setattr(WorkerLogs, "copy_new_lines", raise_timeout)
        with pytest.raises(Timeout):
            task_launcher.launch(options(), context())
    assert [kind for kind, *_ in cluster.deleted] == ["jobs"]


def test_a_retry_replaces_the_job_of_an_earlier_try(cluster):
    """The process of the earlier try was lost, and its workers still train."""
    from airflow.sdk.exceptions import TaskDeferred

    cluster.fates = ["run", "complete"]
    with pytest.raises(TaskDeferred):
        launcher(deferrable=True).launch(options(), context())
    first = cluster.created[0]
    cluster.look(first["metadata"]["name"])
    assert len(cluster.pods) == 1
    launcher().launch(options(), context(try_number=2))
    assert [created["kind"] for created in cluster.created] == ["Job", "Service"] * 2
    assert not cluster.overlaps
    (service,) = cluster.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == cluster.created[2]["metadata"]["uid"]


def test_a_service_that_outlived_its_job_is_replaced(cluster):
    """The cluster would soon delete it, and with it the names by which workers find each other."""
    from captioner_airflow.launchers.kubernetes_manifests import make_service

    job, _ = launcher().make_manifests(options(), "t")
    service = make_service(job, 23456, "jobs-removed")
    service["metadata"]["uid"] = "services-removed"
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
    cluster.end(cluster.jobs[name])
    launcher().launch(options(), context(run_id="run-2"))
    assert not cluster.overlaps


def test_a_job_whose_service_is_refused_is_deleted(cluster):
    from kubernetes.client.exceptions import ApiException

    cluster.allowed -= {("create", "services")}
    cluster.fates = ["run"]
    with pytest.raises(ApiException, match="services is forbidden"):
        launcher().launch(options(), context())
    deleted = [kind for kind, *_ in cluster.deleted]
    assert deleted == ["jobs"], "its workers would wait for each other forever"


def test_a_job_deleted_by_someone_else_fails_the_task(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = ["run"]

    def vanish(cluster, name):
        if name in cluster.jobs and cluster.looks.get(cluster.jobs[name]["metadata"]["uid"]) == 2:
            cluster.delete("jobs", name, {})

    cluster.on_look = vanish
    with pytest.raises(AirflowException, match="was deleted while it trained"):
        launcher().launch(options(), context())


# Deferred


def defer(call):
    """Returns the trigger of a deferred call, as the triggerer recreates it from the database."""
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as raised:
        call()
    assert raised.value.method_name == "execute_complete"
    path, arguments = raised.value.trigger.serialize()
    module, name = path.rsplit(".", 1)
    return getattr(sys.modules[module], name)(**json.loads(json.dumps(arguments)))


def wait_for_event(trigger):
    """Returns the payload of a trigger's first event."""

    async def first():
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))

    return asyncio.run(first())


def test_a_deferred_task_restarts_its_workers_and_ends(cluster, capsys):
    cluster.fates = [137, "complete"]
    event = wait_for_event(defer(lambda: launcher(deferrable=True).launch(options(), context())))
    restarted = defer(lambda: launcher(deferrable=True).resume(context(), event))
    event = wait_for_event(restarted)
    capsys.readouterr()
    launcher(deferrable=True).resume(context(), event)
    assert "says 0" in capsys.readouterr().out
    assert [created["kind"] for created in cluster.created] == ["Job", "Service"] * 2
    assert contains(
        cluster.created[2], launcher().make_manifests(options(), "dag/run-1/train/-1")[0]
    )
    assert not cluster.overlaps


def test_starts_are_counted_across_deferrals(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = [1, 1, "complete"]
    task_launcher = launcher(deferrable=True, backoff_limit=1)
    event = wait_for_event(defer(lambda: task_launcher.launch(options(), context())))
    event = wait_for_event(defer(lambda: task_launcher.resume(context(), event)))
    with pytest.raises(AirflowException, match="the last of 2 starts"):
        task_launcher.resume(context(), event)


def test_a_kill_of_a_deferred_task_deletes_its_own_job_only(cluster):
    """The provider's own trigger would let the Job continue."""
    cluster.fates = ["run", "run"]
    trigger = defer(lambda: launcher(deferrable=True).launch(options(), context()))
    asyncio.run(trigger.on_kill())
    name = cluster.created[0]["metadata"]["name"]
    assert cluster.deleted == [("jobs", name, "Foreground")]
    # A cleared task may have restarted before the triggerer ends the old wait.
    defer(lambda: launcher(deferrable=True).launch(options(), context(try_number=2)))
    deleted = len(cluster.deleted)
    asyncio.run(trigger.on_kill())
    assert len(cluster.deleted) == deleted, "the Job of the new try stays"


def test_a_job_deleted_while_its_task_is_deferred_fails_the_task(cluster):
    from airflow.sdk.exceptions import AirflowException

    cluster.fates = ["run"]
    trigger = defer(lambda: launcher(deferrable=True).launch(options(), context()))
    cluster.jobs.clear()
    with pytest.raises(AirflowException, match="was deleted while it trained"):
        launcher(deferrable=True).resume(context(), wait_for_event(trigger))
