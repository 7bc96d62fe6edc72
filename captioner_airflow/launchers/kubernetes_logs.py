"""Copies what the workers of a Job print to the log of an Airflow task."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from kubernetes.client import CoreV1Api, V1Pod
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from captioner_airflow.launchers.kubernetes_manifests import CONTAINER, INSTANCE

_INDEX = "batch.kubernetes.io/job-completion-index"
_OVERLAP_S = 5  # a poll re-reads this much, in case the clocks of node and task differ
_MAX_FAILURES = 3


class _LogLine(NamedTuple):
    """A line of a pod's log.

    Args:
      timestamp: when it was written, as text that sorts by time.
      text: what was written.
    """

    timestamp: str
    text: str


@dataclass(frozen=True)
class _LogCursor:
    """How much of a pod's log has been copied.

    Args:
      read_at: when the log was last read, in seconds of the monotonic clock.
      timestamp: the latest timestamp that was copied.
      lines: the lines with that timestamp, since later ones can have the same.
    """

    read_at: float = 0.0
    timestamp: str = ""
    lines: frozenset[_LogLine] = frozenset()


class WorkerLogs:
    """The logs of a Job's workers.

    Args:
      client: the client of the cluster.
      namespace: the namespace of the Job.
      job_name: the name of the Job.
      log: the logger of the task, from logging or from Airflow.
    """

    def __init__(self, client: CoreV1Api, namespace: str, job_name: str, log: Any) -> None:
        self._client = client
        self._namespace = namespace
        self._job_name = job_name
        self._log = log
        self._cursors: dict[str, _LogCursor] = {}
        self._waiting_reasons: dict[str, str] = {}
        self._has_warned = False

    def copy_new_lines(self) -> None:
        """Copies lines that are new since the last call, and says why pods do not start.

        Training continues even if the logs can't be read; the first such error is logged.
        """
        try:
            pods = self._list_pods()
        except (ApiException, HTTPError) as error:
            self._warn_once(error)
            return
        for pod in pods:
            self._log_waiting(pod)
            if pod.status and pod.status.phase != "Pending":
                try:
                    self._copy_pod(pod)
                except (ApiException, HTTPError) as error:  # such as a lost node
                    self._warn_once(error)

    def describe_failures(self) -> str:
        """Returns the exit codes and last log lines of failed workers, the first failure first."""
        try:
            pods = self._list_pods()
        except (ApiException, HTTPError):
            return "its pods can't be read"
        states = [(pod, state.terminated) for pod in pods if (state := _container_state(pod))]
        failed = [(pod, state) for pod, state in states if state and state.exit_code]
        failed.sort(key=lambda item: str(item[1].finished_at))
        failures = [_describe_failure(pod, state) for pod, state in failed[:_MAX_FAILURES]]
        return "; ".join(failures) or "none of its failed pods is left to report a reason"

    def _list_pods(self) -> list[V1Pod]:
        pods = self._client.list_namespaced_pod(
            self._namespace, label_selector=f"{INSTANCE}={self._job_name}"
        ).items
        return sorted(pods, key=_worker_index)

    def _log_waiting(self, pod: V1Pod) -> None:
        """Logs why a pod does not start, whenever the reason changes."""
        name = pod.metadata.name
        reason = _waiting_reason(pod)
        if reason and self._waiting_reasons.get(name) != reason:
            self._log.warning("[worker %d] waits: %s", _worker_index(pod), reason)
        self._waiting_reasons[name] = reason

    def _copy_pod(self, pod: V1Pod) -> None:
        """Copies a pod's new lines.

        The log is read from a little before the last read, and lines that were copied already are
        recognised by their timestamps.
        """
        name = pod.metadata.name
        cursor = self._cursors.get(name, _LogCursor())
        now = time.monotonic()
        lines = self._read_lines(name, cursor, now)
        for line in lines:
            if line.timestamp >= cursor.timestamp and line not in cursor.lines:
                self._log.info("[worker %d] %s", _worker_index(pod), line.text)
        latest = max([cursor.timestamp, *(line.timestamp for line in lines)])
        latest_lines = {line for line in lines if line.timestamp == latest} or cursor.lines
        self._cursors[name] = _LogCursor(now, latest, frozenset(latest_lines))

    def _read_lines(self, name: str, cursor: _LogCursor, now: float) -> list[_LogLine]:
        since = {}
        if cursor.lines:
            since["since_seconds"] = int(now - cursor.read_at) + _OVERLAP_S
        text = self._client.read_namespaced_pod_log(
            name,
            self._namespace,
            container=CONTAINER,
            timestamps=True,
            tail_lines=10_000,
            _preload_content=False,
            **since,
        ).data.decode("utf-8", "replace")
        return [_LogLine(*line.partition(" ")[::2]) for line in text.splitlines()]

    def _warn_once(self, error: Exception) -> None:
        if not self._has_warned:
            reason = " ".join(str(error).split())[:200]
            self._log.warning("The workers' logs can't be read (%s)", reason)
        self._has_warned = True


def _worker_index(pod: V1Pod) -> int:
    marks = {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    return int(marks.get(_INDEX, -1))


def _container_state(pod: V1Pod) -> Any:
    statuses = (pod.status and pod.status.container_statuses) or []
    return next((status.state for status in statuses if status.name == CONTAINER), None)


def _describe_failure(pod: V1Pod, state: Any) -> str:
    """Returns one line about a failed worker, such as its exit code and its last log line."""
    failure = f"worker {_worker_index(pod)} ended with exit code {state.exit_code}"
    if state.reason not in (None, "Error"):
        failure += f" ({state.reason})"
    last_lines = (state.message or "").strip().splitlines()[-1:]
    return ": ".join([failure, *last_lines])


def _waiting_reason(pod: V1Pod) -> str:
    """Returns why a pod does not start, or an empty text if it runs or is about to."""
    for condition in (pod.status and pod.status.conditions) or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    state = _container_state(pod)
    waiting = state.waiting if state else None
    if waiting is None or waiting.reason in ("ContainerCreating", "PodInitializing"):
        return ""
    return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
