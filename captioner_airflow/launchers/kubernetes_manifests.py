"""The Job and the Service of a training on Kubernetes, as plain dicts; knows no cluster.

An Indexed Job names its pods' hosts ``JOB-INDEX``, and the headless Service makes these names
resolve: together they are what ``captioner_core.training.distributed.cluster`` reads.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions, arguments_of

if TYPE_CHECKING:
    from captioner_airflow.launchers.kubernetes import KubernetesLauncher

CONTAINER = "train"
MODEL_FOLDER = "captioner/model-folder"  # annotations
TASK = "captioner/task"
INSTANCE = "app.kubernetes.io/instance"  # label of all pods of a Job
BAD_INPUT_EXIT_CODE = 2
_VOLUME = "captioner-data"
_KEPT_S = 86_400  # a finished Job, for those who want to look at its pods
_SLUG_LENGTH = 24  # of 63 that JOB-INDEX may have


def job_name(claim: str, output: str) -> str:
    """Of the Job that trains this model folder.

    The folder alone decides it, so that the cluster itself refuses a second Job that would write the same one.
    """
    folder = posixpath.normpath(output)
    slug = re.sub(r"[^a-z0-9]+", "-", posixpath.basename(folder).lower())[:_SLUG_LENGTH].strip("-")
    digest = hashlib.sha256(f"{claim}\0{folder}".encode()).hexdigest()[:10]
    return "-".join(part for part in ("captioner", slug, digest) if part)


def worker_arguments(options: TrainOptions) -> list[str]:
    """The command line that gives these options to one worker of a Job.

    Kubernetes puts a variable's value in place of ``$(NAME)`` in arguments; a doubled ``$`` is one that stays.
    """
    arguments = arguments_of(dataclasses.replace(options, workers=1))  # the pods are the workers
    return [argument.replace("$", "$$") for argument in arguments]


def make_job(
    settings: KubernetesLauncher, options: TrainOptions, template: dict[str, Any], task: str
) -> dict[str, Any]:
    """The Indexed Job.

    Args:
      settings: of the launcher.
      options: of the training.
      template: a pod, as YAML gives it; not changed.
      task: whose Job this is, such as ``DAG/RUN/TASK/MAP_INDEX``.

    Raises:
      CaptionerError: options or template can't be of a training on this cluster.
    """
    _check_options(settings, options)
    name = job_name(settings.claim, options.output)
    labels = _labels(name)
    pod = _pod(settings, options, template, name)
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
            # Kubernetes would start one worker anew among others that are about to end because they miss it, or
            # that are done and don't come back. So the first failure ends the Job, and the launcher starts all anew
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",  # told by its reason from what is worth another start
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": [BAD_INPUT_EXIT_CODE],
                        },
                    }
                ]
            },
            "activeDeadlineSeconds": settings.active_deadline_s,
            "ttlSecondsAfterFinished": _KEPT_S,
            "template": {
                "metadata": {
                    "labels": {**(metadata.get("labels") or {}), **labels},
                    "annotations": {**(metadata.get("annotations") or {})},
                },
                "spec": pod,
            },
        },
    }


def make_service(job: dict[str, Any], port: int, owner_uid: str | None = None) -> dict[str, Any]:
    """The headless Service by which the pods of ``job`` find each other.

    Args:
      job: as ``make_job`` makes it.
      port: on which the workers listen.
      owner_uid: of the Job in the cluster, with which the Service goes; None before it is known.
    """
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    metadata = {"name": name, "namespace": namespace, "labels": job["metadata"]["labels"]}
    if owner_uid:
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": owner_uid,
            "controller": True,
        }
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "selector": {INSTANCE: name},
            "ports": [{"name": "grpc", "port": port}],
            "publishNotReadyAddresses": True,  # each worker waits for the others before it is of any use
        },
    }


def read_template(path: str | Path) -> dict[str, Any]:
    """A pod template.

    Raises:
      CaptionerError: it is no pod with a container for the training.
    """
    import yaml  # comes with Airflow

    try:
        template = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CaptionerError(
            f"pod template {str(path)!r} can't be read ({reason}); name a YAML file"
        ) from error
    spec = (
        template.get("spec")
        if isinstance(template, dict) and template.get("kind") == "Pod"
        else None
    )
    containers = spec.get("containers") if isinstance(spec, dict) else None
    first = containers[0] if isinstance(containers, list) and containers else None
    if not isinstance(spec, dict) or not isinstance(first, dict) or first.get("name") != CONTAINER:
        raise CaptionerError(
            f"pod template {str(path)!r} must be a Pod whose first container is named {CONTAINER!r}; "
            "start from captioner_airflow/launchers/pod_template.yaml"
        )
    for key in ("hostNetwork", "setHostnameAsFQDN", "hostname"):
        if spec.get(key):
            raise CaptionerError(
                f"pod template {str(path)!r} sets {key}, but workers find each other as JOB-INDEX; leave it out"
            )
    assert isinstance(template, dict)
    return template


def _check_options(settings: KubernetesLauncher, options: TrainOptions) -> None:
    named = {"dataset": options.dataset, "features": options.features, "mirrored": options.mirrored}
    for name, value in {**named, "output": options.output}.items():
        elsewhere = value is None or (
            "://" in value and name != "output"
        )  # a checkpoint needs a file system
        if not elsewhere and not posixpath.normpath(str(value)).startswith(
            f"{settings.mount_path}/"
        ):
            raise CaptionerError(
                f"--{name} {value!r} must lie below {settings.mount_path}, where the pods find the volume "
                f"{settings.claim!r}; put it there, and mount that volume at the same place where Airflow's tasks run"
            )
    replicas = options.workers * max(1, settings.gpus)
    if options.batch_size % replicas:
        raise CaptionerError(
            f"--batch-size {options.batch_size} must be a multiple of the {replicas} replicas that train "
            f"({options.workers} workers of {max(1, settings.gpus)}); each takes an equal share"
        )


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "captioner",
        "app.kubernetes.io/component": "training",
        INSTANCE: name,
    }


def _pod(
    settings: KubernetesLauncher, options: TrainOptions, template: dict[str, Any], name: str
) -> dict[str, Any]:
    pod: dict[str, Any] = copy.deepcopy(template["spec"])
    container, *others = pod["containers"]
    environment = {
        "CAPTIONER_SERVICE": name,
        "CAPTIONER_WORKERS": str(options.workers),
        "CAPTIONER_PORT": str(settings.port),
    }
    given = [item for item in container.get("env") or [] if item["name"] not in environment]
    container |= {
        "image": settings.image,
        "command": ["python", "-m", "captioner_core.training"],
        "args": worker_arguments(options),
        "env": [*given, *({"name": key, "value": value} for key, value in environment.items())],
        "ports": [
            *(container.get("ports") or []),
            {"name": "grpc", "containerPort": settings.port},
        ],
        "volumeMounts": [
            *(container.get("volumeMounts") or []),
            {"name": _VOLUME, "mountPath": settings.mount_path},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last lines of a failed worker, in the task's error
    }
    if settings.gpus:
        resources = container.setdefault("resources", {})
        resources["limits"] = {
            **(resources.get("limits") or {}),
            "nvidia.com/gpu": str(settings.gpus),
        }
    volume = {"name": _VOLUME, "persistentVolumeClaim": {"claimName": settings.claim}}
    pod |= {
        "subdomain": name,
        "restartPolicy": "Never",  # podFailurePolicy asks for it
        "containers": [container, *others],
        "volumes": [*(pod.get("volumes") or []), volume],
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    return pod
