"""The settings of trainings on Kubernetes, with the rules that they must follow."""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

POD_TEMPLATE = Path(__file__).with_name("pod_template.yaml")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """The content of the Airflow Variable ``captioner_kubernetes``.

    Args:
      image: the container image of the workers; docker/Dockerfile.gpu builds one.
      claim: the name of the PersistentVolumeClaim (ReadWriteMany) that all workers share.
      mount_path: the folder where the pods and Airflow's tasks mount that volume.
      namespace: the namespace of Job, Service and claim.
      gpus: the number of GPUs of each worker; 0 trains on CPUs.
      kubernetes_conn_id: the id of Airflow's connection to the cluster.
      service_account: the service account of the pods, or None for the namespace's default.
      backoff_limit: how often all workers are restarted after a failure before the task fails.
      active_deadline_s: seconds after which Kubernetes ends the pods of one start.
      deferrable: whether the triggerer waits, which frees the task slot. The workers' log then
        appears only at the end.
      poll_interval_s: seconds between two checks of the Job's status.
      port: the port on which the workers listen to each other.
      pod_template: a YAML file with what else a pod needs, such as node selector, tolerations,
        memory and security context.

    Raises:
      ValueError: if a setting breaks its rule; the message gives value, rule and remedy.
    """

    image: str
    claim: str
    mount_path: str = "/data"
    namespace: str = "default"
    gpus: int = 1
    kubernetes_conn_id: str = "kubernetes_default"
    service_account: str | None = None
    backoff_limit: int = 3
    active_deadline_s: int = 172_800
    deferrable: bool = False
    poll_interval_s: float = 10.0
    port: int = 23456
    pod_template: str | Path = POD_TEMPLATE

    def __post_init__(self) -> None:
        for rule in _RULES:
            value = getattr(self, rule.setting)
            if not rule.is_valid(value):
                raise ValueError(f"{rule.setting} {value!r} {rule.text}; {rule.remedy}")


class _Rule(NamedTuple):
    """A rule for one setting, and how an error message states it."""

    setting: str
    is_valid: Callable[[Any], bool]
    text: str
    remedy: str


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None


def _is_service_account(value: str | None) -> bool:
    return value is None or _SUBDOMAIN.fullmatch(value) is not None


def _is_mount_path(value: str) -> bool:
    is_absolute = value.startswith("/") and value != "/"
    return is_absolute and posixpath.normpath(value) == value and ":" not in value


def _make_range_rule(setting: str, minimum: int, maximum: int, remedy: str) -> _Rule:
    def is_in_range(value: object) -> bool:
        """Returns whether a value is an integer within the limits; True and False are not."""
        return (
            isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum
        )

    return _Rule(setting, is_in_range, f"must be {minimum} to {maximum}", remedy)


_RULES = (
    _Rule(
        "image",
        _matches(_IMAGE),
        "must be the name of an image",
        "write one such as registry.example/captioner:1",
    ),
    _Rule("claim", _matches(_SUBDOMAIN), "must be the name of a claim", "see kubectl get pvc"),
    _Rule(
        "namespace",
        _matches(_LABEL),
        "must be the name of a namespace",
        "see kubectl get namespaces",
    ),
    _Rule(
        "service_account",
        _is_service_account,
        "must be the name of a service account",
        "omit it for the default one",
    ),
    _Rule(
        "mount_path",
        _is_mount_path,
        "must be an absolute folder other than /",
        "/data is the default",
    ),
    _Rule("kubernetes_conn_id", bool, "is empty", "name an Airflow connection"),
    _make_range_rule("gpus", 0, 16, "0 trains on CPUs"),
    _make_range_rule("backoff_limit", 0, 100, "3 is the default"),
    _make_range_rule("active_deadline_s", 60, 31_536_000, "172800, two days, is the default"),
    _make_range_rule("port", 1024, 65_535, "23456 is the default"),
    _Rule(
        "poll_interval_s",
        lambda value: 0 < value <= 3600,
        "must be above 0 and at most 3600",
        "10 is the default",
    ),
    _Rule(
        "pod_template",
        lambda value: Path(value).is_file(),
        "is not a file",
        "omit it for the one that comes with the package",
    ),
)
