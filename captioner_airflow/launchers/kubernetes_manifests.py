"""Manifests of the Job and the Service of a training on Kubernetes, as dicts. Calls no cluster.

Pods of an Indexed Job have the host names ``JOB-INDEX``, and the headless Service makes these names
resolve. ``captioner_core.training.distributed.cluster`` reads both.
"""

import copy
import dataclasses
import hashlib
import posixpath
import re
from pathlib import Path
from typing import Any

import yaml  # Airflow requires PyYAML, so it is always installed

from captioner_airflow.launchers.kubernetes_settings import KubernetesSettings
from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import JsonObject
from captioner_core.options import TrainOptions, arguments_of

Manifest = JsonObject
"""A Kubernetes object, or part of one, as YAML states it."""

CONTAINER = "train"
MODEL_FOLDER = "captioner/model-folder"
"""Annotation of a Job: the model folder that it trains."""
TASK = "captioner/task"
"""Annotation of a Job: the task that owns it."""
INSTANCE = "app.kubernetes.io/instance"
"""Label of all pods of a Job: its name."""
BAD_INPUT_EXIT_CODE = 2

_VOLUME = "captioner-data"
_FINISHED_TTL_S = 86_400  # a finished Job stays this long, so that its pods can be examined
_MAX_SLUG_LENGTH = 24  # a host name JOB-INDEX may have 63 characters
_FORBIDDEN_POD_FIELDS = ("hostNetwork", "setHostnameAsFQDN", "hostname")


def make_job_name(claim: str, output: str) -> str:
    """Returns the name of the Job that trains a model folder.

    The name depends only on the volume and the folder, so the cluster itself refuses a second Job
    that would write to the same folder.

    Args:
      claim: the name of the PersistentVolumeClaim.
      output: the model folder.
    """
    folder = posixpath.normpath(output)
    basename = posixpath.basename(folder).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", basename)[:_MAX_SLUG_LENGTH].strip("-")
    digest = hashlib.sha256(f"{claim}\0{folder}".encode()).hexdigest()[:10]
    return "-".join(part for part in ("captioner", slug, digest) if part)


def make_worker_arguments(options: TrainOptions) -> list[str]:
    """Returns the command-line arguments that give these options to one worker of a Job.

    Kubernetes replaces ``$(NAME)`` in arguments by the value of a variable, and ``$$`` by ``$``, so
    each ``$`` is doubled.
    """
    arguments = arguments_of(dataclasses.replace(options, workers=1))  # each pod is one worker
    return [argument.replace("$", "$$") for argument in arguments]


def make_job(
    settings: KubernetesSettings, options: TrainOptions, template: Manifest, task: str
) -> Manifest:
    """Returns the Indexed Job of a training.

    Args:
      settings: the settings of the cluster.
      options: the options of the training.
      template: the pod template, which stays unchanged.
      task: the task that owns the Job, as ``DAG/RUN/TASK/MAP_INDEX``.

    Raises:
      CaptionerError: if the options do not suit this cluster.
    """
    _check_options(settings, options)
    name = make_job_name(settings.claim, options.output)
    labels = {
        "app.kubernetes.io/name": "captioner",
        "app.kubernetes.io/component": "training",
        INSTANCE: name,
    }
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": {MODEL_FOLDER: options.output, TASK: task},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": options.workers,
            "parallelism": options.workers,
            # Kubernetes could only restart a single worker, but the other workers end when they
            # miss it, or have finished and do not come back. So the first failure ends the Job, and
            # the launcher restarts all workers.
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [_make_bad_input_rule()]},
            "activeDeadlineSeconds": settings.active_deadline_s,
            "ttlSecondsAfterFinished": _FINISHED_TTL_S,
            "template": {
                "metadata": {
                    "labels": {**(metadata.get("labels") or {}), **labels},
                    "annotations": {**(metadata.get("annotations") or {})},
                },
                "spec": _make_pod(settings, options, template, name),
            },
        },
    }


def _make_bad_input_rule() -> Manifest:
    """Returns the rule that gives a Job which refused its input a reason of its own.

    The launcher reads that reason and does not restart the workers.
    """
    exit_codes = {
        "containerName": CONTAINER,
        "operator": "In",
        "values": [BAD_INPUT_EXIT_CODE],
    }
    return {"action": "FailJob", "onExitCodes": exit_codes}


def make_service(job: Manifest, port: int, owner_uid: str | None = None) -> Manifest:
    """Returns the headless Service that lets the pods of a Job find each other.

    Args:
      job: the Job, as ``make_job`` returns it.
      port: the port on which the workers listen.
      owner_uid: the uid of the Job in the cluster, which deletes the Service with the Job; None
        while the uid is unknown.
    """
    name = job["metadata"]["name"]
    metadata = {
        "name": name,
        "namespace": job["metadata"]["namespace"],
        "labels": job["metadata"]["labels"],
    }
    if owner_uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": name,
                "uid": owner_uid,
                "controller": True,
            }
        ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "selector": {INSTANCE: name},
            "ports": [{"name": "grpc", "port": port}],
            # A worker is ready only once it has found all others, so they must find it before.
            "publishNotReadyAddresses": True,
        },
    }


def read_template(path: str | Path) -> Manifest:
    """Reads a pod template.

    Args:
      path: a YAML file that contains one Pod.

    Raises:
      CaptionerError: if the file can't be read, or is not a Pod in which a worker can run.
    """
    try:
        template = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CaptionerError(
            f"pod template {str(path)!r} can't be read ({reason}); name a YAML file"
        ) from error
    if not _is_training_pod(template):
        raise CaptionerError(
            f"pod template {str(path)!r} must be a Pod whose first container is named "
            f"{CONTAINER!r}; start from captioner_airflow/launchers/pod_template.yaml"
        )
    for name in _FORBIDDEN_POD_FIELDS:
        if template["spec"].get(name):
            raise CaptionerError(
                f"pod template {str(path)!r} sets {name}, which changes the host names JOB-INDEX "
                "by which workers find each other; remove it"
            )
    pod: Manifest = template
    return pod


def _is_training_pod(template: Any) -> bool:
    if not isinstance(template, dict) or template.get("kind") != "Pod":
        return False
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(containers, list) or not containers:
        return False
    return isinstance(containers[0], dict) and containers[0].get("name") == CONTAINER


def _check_options(settings: KubernetesSettings, options: TrainOptions) -> None:
    named = [
        (name, value)
        for name in ("dataset", "features", "mirrored")
        for value in getattr(options, name)
        if "://" not in value
    ]
    # Tables may be URIs, but checkpoints in the model folder need a file system.
    for name, value in [*named, ("output", options.output)]:
        if not posixpath.normpath(value).startswith(f"{settings.mount_path}/"):
            raise CaptionerError(
                f"--{name} {value!r} must lie below {settings.mount_path}, where the pods mount "
                f"the volume {settings.claim!r}; put it there, and mount the volume at the same "
                "path where Airflow's tasks run"
            )
    replicas_per_worker = max(1, settings.gpus)
    replicas = options.workers * replicas_per_worker
    if options.batch_size % replicas:
        raise CaptionerError(
            f"--batch-size {options.batch_size} must be a multiple of the {replicas} replicas that "
            f"train ({options.workers} workers with {replicas_per_worker} each), which all get an "
            "equal share; choose such a multiple"
        )


def _make_pod(
    settings: KubernetesSettings, options: TrainOptions, template: Manifest, name: str
) -> Manifest:
    pod: Manifest = copy.deepcopy(template["spec"])
    container, *sidecars = pod["containers"]
    volume = {"name": _VOLUME, "persistentVolumeClaim": {"claimName": settings.claim}}
    pod["subdomain"] = name
    pod["restartPolicy"] = "Never"  # podFailurePolicy requires it
    pod["containers"] = [_complete_container(container, settings, options, name), *sidecars]
    pod["volumes"] = [*(pod.get("volumes") or []), volume]
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _complete_container(
    container: Manifest, settings: KubernetesSettings, options: TrainOptions, name: str
) -> Manifest:
    """Returns the template's container with image, command, environment, port, volume and GPUs."""
    variables = {
        "CAPTIONER_SERVICE": name,
        "CAPTIONER_WORKERS": str(options.workers),
        "CAPTIONER_PORT": str(settings.port),
    }
    template_env = [item for item in container.get("env") or [] if item["name"] not in variables]
    port = {"name": "grpc", "containerPort": settings.port}
    mount = {"name": _VOLUME, "mountPath": settings.mount_path}
    completed = {
        **container,
        "image": settings.image,
        "command": ["python", "-m", "captioner_core.training"],
        "args": make_worker_arguments(options),
        "env": [*template_env, *({"name": key, "value": variables[key]} for key in variables)],
        "ports": [*(container.get("ports") or []), port],
        "volumeMounts": [*(container.get("volumeMounts") or []), mount],
        # The last log lines of a failed worker then become part of the task's error.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.gpus:
        resources = container.get("resources") or {}
        limits = {**(resources.get("limits") or {}), "nvidia.com/gpu": str(settings.gpus)}
        completed["resources"] = {**resources, "limits": limits}
    return completed
