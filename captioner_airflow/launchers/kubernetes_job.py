"""One start of a training as an Indexed Job: created, followed, deleted. Needs the Kubernetes provider."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.triggers.job import KubernetesJobTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.triggers.base import TriggerEvent
from kubernetes.client import ApiClient, V1DeleteOptions, V1Job, V1Pod, V1Preconditions
from kubernetes.client.exceptions import ApiException
from kubernetes_asyncio import client as async_client
from urllib3.exceptions import HTTPError

from captioner_airflow.launchers.kubernetes_manifests import (
    CONTAINER,
    INSTANCE,
    MODEL_FOLDER,
    TASK,
    make_service,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

DONE, FAILED, GONE = "done", "failed", "gone"
BAD_INPUT = "PodFailurePolicy"  # reason of a Job that its podFailurePolicy has ended
WORKER_FAILED = "BackoffLimitExceeded"
_INDEX = "batch.kubernetes.io/job-completion-index"
_DELETION_S = 600.0  # a pod's grace period, and what a slow node adds
_SERVICE_S = 60.0
_LOG_OVERLAP_S = 5
_LOG_LINES = 10_000
_NOT_FOUND, _CONFLICT = 404, 409


@dataclass(frozen=True)
class Outcome:
    """How a Job has ended: done, failed, or gone before its end was seen."""

    status: str
    reason: str = ""
    message: str = ""


def outcome_of(job: Any, uid: str) -> Outcome | None:
    """How the Job with this uid has ended; None while it runs.

    Args:
      job: as either of the two clients reads it.
      uid: of the Job meant; one with another has replaced it.
    """
    if job.metadata.uid != uid or job.metadata.deletion_timestamp:
        return Outcome(GONE)
    for condition in (job.status and job.status.conditions) or []:
        if condition.status == "True" and condition.type in ("Complete", "Failed"):
            status = DONE if condition.type == "Complete" else FAILED
            return Outcome(status, condition.reason or "", condition.message or "")
    return None


@dataclass(frozen=True)
class _LogCursor:
    """How far a pod's log has been told: when it was read, and the lines of its latest time."""

    read_at: float = 0.0
    until: str = ""
    lines: frozenset[tuple[str, str]] = frozenset()


class TrainingJobOperator(KubernetesJobOperator):
    """The provider's operator for one start of a training's workers.

    The provider builds the Job, reaches the cluster and repeats what failed in passing. Its ``execute`` is not
    called: it looks for the pods once, right after it has asked for the Job, and fails where they are not there
    yet; it reads their logs when all is over; and it creates the Job without reading which uid it got, which the
    Service needs.

    Args:
      manifest: the Job, as ``make_job`` makes it.
      port: on which the workers listen.
      conn_id: Airflow's connection to the cluster.
      poll_interval_s: between two looks at the Job.
      kwargs: of every operator, such as ``task_id``.
    """

    def __init__(
        self,
        *,
        manifest: dict[str, Any],
        port: int,
        conn_id: str,
        poll_interval_s: float,
        **kwargs: Any,
    ) -> None:
        spec = manifest["spec"]
        super().__init__(
            kubernetes_conn_id=conn_id,
            name=manifest["metadata"]["name"],
            namespace=manifest["metadata"]["namespace"],
            random_name_suffix=False,
            full_job_spec=_deserialize(manifest),
            # What the operator has a default for, it would write over full_job_spec: parallelism 1 above all
            completion_mode=spec["completionMode"],
            completions=spec["completions"],
            parallelism=spec["parallelism"],
            backoff_limit=spec["backoffLimit"],
            base_container_name=CONTAINER,
            termination_message_policy="FallbackToLogsOnError",
            wait_until_job_complete=True,
            job_poll_interval=poll_interval_s,
            on_kill_propagation_policy="Foreground",
            **kwargs,
        )
        self.manifest = manifest
        self.port = port
        self._told: dict[str, _LogCursor] = {}
        self._waits: dict[str, str] = {}
        self._log_failed = False

    def start(self, context: Context) -> None:
        """Creates Job and Service, in the place of what an earlier try has left.

        Raises:
          AirflowException: another task trains this model folder, or what it left does not go.
        """
        self._delete_earlier()
        request = self.build_job_request_obj(context)
        request.metadata.name = (
            self.name
        )  # the provider puts job- before it, and the hosts are called after it
        self._stop_if_killed()
        try:
            self.job = self.hook.create_job(request)
        except ApiException as error:
            if error.status == _CONFLICT:
                raise AirflowException(
                    f"{self._which} was created by another task at this moment; try again"
                ) from error
            raise
        self.log.info("Created %s with %d workers", self._which, self.parallelism)
        try:
            self._create_service()
            self._stop_if_killed()
        except BaseException:
            self.delete()
            raise

    def attach(self, uid: str) -> None:
        """Takes up the Job that an earlier process of this task has started."""
        self.job = _deserialize(
            {"metadata": {"name": self.name, "namespace": self.namespace, "uid": uid}}
        )

    def wait(self) -> Outcome:
        """Until the Job has ended; meanwhile its workers' lines go to the task's log."""
        while True:
            outcome = Outcome(GONE) if self._killed else self._look()
            self.tell()
            if outcome:
                return outcome
            time.sleep(self.job_poll_interval)

    def wait_elsewhere(self, options: dict[str, Any], starts: int) -> NoReturn:
        """Leaves the waiting to the triggerer.

        Args:
          options: of the training, for whoever goes on.
          starts: of the workers before this one.
        """
        assert self.job is not None
        trigger = TrainingJobTrigger(
            name=str(self.name),
            namespace=str(self.namespace),
            uid=self.job.metadata.uid,
            conn_id=str(self.kubernetes_conn_id),
            poll_interval_s=self.job_poll_interval,
            options=options,
            starts=starts,
        )
        raise TaskDeferred(trigger=trigger, method_name="execute_complete")

    def delete(self) -> None:
        """Deletes the Job with its pods and its Service, which it owns; another of its name stays."""
        uid = self.job.metadata.uid if self.job else self._uid_of_own()
        if uid is None:
            return
        body = V1DeleteOptions(
            propagation_policy="Foreground", preconditions=V1Preconditions(uid=uid)
        )
        try:
            self.job_client.delete_namespaced_job(self.name, self.namespace, body=body)
        except ApiException as error:
            if error.status not in (_NOT_FOUND, _CONFLICT):
                raise

    def on_kill(self) -> None:
        self._killed = True
        self.delete()

    def tell(self) -> None:
        """Puts what the workers have said since the last call, and why others don't start, into the task's log."""
        try:
            pods = self._pods()
        except (ApiException, HTTPError) as error:
            self._pass_over(error)
            return
        for pod in pods:
            self._tell_wait(pod)
            if pod.status and pod.status.phase != "Pending":
                try:
                    self._tell_lines(pod)
                except (
                    ApiException,
                    HTTPError,
                ) as error:  # of a lost node, say; the others' are read
                    self._pass_over(error)

    def failures(self) -> str:
        """What the workers that failed said last, the first to fail first."""
        try:
            ended = [
                (pod, state)
                for pod in self._pods()
                if (state := _terminated(pod)) and state.exit_code
            ]
        except (ApiException, HTTPError):
            return "its pods can't be read"
        ended.sort(key=lambda item: str(item[1].finished_at))
        lines = []
        for pod, state in ended[:3]:
            last = (state.message or "").strip().splitlines()[-1:] or [""]
            killed = f" ({state.reason})" if state.reason not in (None, "Error") else ""
            lines.append(
                f"worker {_index(pod)} ended with exit code {state.exit_code}{killed}: {last[0]}".rstrip(
                    ": "
                )
            )
        return "; ".join(lines) or "no failed pod is left to ask"

    # Steps

    @property
    def _which(self) -> str:
        return f"Job {self.namespace}/{self.name}"

    def _stop_if_killed(self) -> None:
        """Airflow asks a task to end from a signal handler, after which the task goes on where it was."""
        if self._killed:
            raise AirflowException(f"{self._which} is not wanted any more; its task was killed")

    def _look(self) -> Outcome | None:
        assert self.job is not None
        try:
            job = self.hook.get_job_status(self.name, self.namespace)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return Outcome(GONE)
            raise
        return outcome_of(job, self.job.metadata.uid)

    def _read(self) -> V1Job | None:
        try:
            return self.hook.get_job(self.name, self.namespace)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _uid_of_own(self) -> str | None:
        """Of a Job that this task has asked for without hearing the answer, or an earlier try of it."""
        job = self._read()
        own = self.manifest["metadata"]["annotations"][TASK]
        return (
            job.metadata.uid if job and (job.metadata.annotations or {}).get(TASK) == own else None
        )

    def _delete_earlier(self) -> None:
        """Deletes the Job that trained this folder before, and waits until its last pod is gone."""
        job = self._read()
        if job is None:
            return
        given, own = job.metadata.annotations or {}, self.manifest["metadata"]["annotations"]
        if MODEL_FOLDER not in given:
            raise AirflowFailException(
                f"{self._which} is not of this launcher; delete it or choose another --output"
            )
        if given.get(TASK) != own[TASK] and not outcome_of(job, job.metadata.uid):
            raise AirflowException(
                f"{self._which} of {given.get(TASK)} still trains {given[MODEL_FOLDER]}; "
                "wait until it has ended, or delete it"
            )
        self.log.info("Replacing %s, which an earlier start has left", self._which)
        self.job = job
        self.delete()
        self.job = None
        deadline = time.monotonic() + _DELETION_S
        while (left := self._read()) and left.metadata.uid == job.metadata.uid:
            if time.monotonic() > deadline:
                raise AirflowException(
                    f"{self._which} was deleted {_DELETION_S:.0f} s ago and a pod of it is still there; "
                    "look whether its node is lost"
                )
            time.sleep(self.job_poll_interval)

    def _create_service(self) -> None:
        """Creates the Service; one that an earlier Job has left is about to be deleted with it, so it is no use."""
        assert self.job is not None
        body = make_service(self.manifest, self.port, self.job.metadata.uid)
        deadline = time.monotonic() + _SERVICE_S
        while True:
            try:
                self.client.create_namespaced_service(self.namespace, body)
                return
            except ApiException as error:
                if error.status != _CONFLICT or time.monotonic() > deadline:
                    raise
            with contextlib.suppress(ApiException):
                self.client.delete_namespaced_service(self.name, self.namespace)
            time.sleep(min(1.0, self.job_poll_interval))

    # Logs

    def _pods(self) -> list[V1Pod]:
        pods = self.client.list_namespaced_pod(
            self.namespace, label_selector=f"{INSTANCE}={self.name}"
        ).items
        return sorted(pods, key=_index)

    def _tell_wait(self, pod: V1Pod) -> None:
        why = _why_it_waits(pod)
        if why and self._waits.get(pod.metadata.name) != why:
            self.log.warning("[worker %d] waits: %s", _index(pod), why)
        self._waits[pod.metadata.name] = why

    def _tell_lines(self, pod: V1Pod) -> None:
        """Those not told yet: a little more than what is new is read, and told apart by the time before each line."""
        told, now = self._told.get(pod.metadata.name, _LogCursor()), time.monotonic()
        since = {"since_seconds": int(now - told.read_at) + _LOG_OVERLAP_S} if told.lines else {}
        response = self.client.read_namespaced_pod_log(
            pod.metadata.name,
            self.namespace,
            container=CONTAINER,
            timestamps=True,
            tail_lines=_LOG_LINES,
            _preload_content=False,
            **since,
        )
        timed = [
            line.partition(" ")[::2]
            for line in response.data.decode("utf-8", "replace").splitlines()
        ]
        for line in timed:
            if line[0] >= told.until and line not in told.lines:
                self.log.info("[worker %d] %s", _index(pod), line[1])
        until = max([told.until, *(when for when, _ in timed)])
        last = {line for line in timed if line[0] == until} or told.lines
        self._told[pod.metadata.name] = _LogCursor(now, until, frozenset(last))

    def _pass_over(self, error: Exception) -> None:
        """Training goes on without its log."""
        if not self._log_failed:
            self.log.warning(
                "The workers' logs can't be read (%s)", " ".join(str(error).split())[:200]
            )
        self._log_failed = True


class TrainingJobTrigger(KubernetesJobTrigger):
    """Waits for a training's Job in the triggerer, and deletes it when a user kills the waiting task.

    Args:
      name: of the Job.
      namespace: of the Job.
      uid: of the Job; another of the same name is not waited for, nor deleted.
      conn_id: Airflow's connection to the cluster.
      poll_interval_s: between two looks at the Job.
      options: of the training; they come back in the event.
      starts: of the workers before this one; comes back in the event.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        uid: str,
        conn_id: str,
        poll_interval_s: float,
        options: dict[str, Any],
        starts: int,
    ) -> None:
        super().__init__(
            job_name=name,
            job_namespace=namespace,
            pod_names=[],
            pod_namespace=namespace,
            base_container_name=CONTAINER,
            kubernetes_conn_id=conn_id,
            poll_interval=poll_interval_s,
        )
        self.uid = uid
        self.options = options
        self.starts = starts

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{__name__}.{type(self).__name__}",
            {
                "name": self.job_name,
                "namespace": self.job_namespace,
                "uid": self.uid,
                "conn_id": self.kubernetes_conn_id,
                "poll_interval_s": self.poll_interval,
                "options": self.options,
                "starts": self.starts,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            job = await self.hook.wait_until_job_complete(
                self.job_name, self.job_namespace, self.poll_interval
            )
            outcome = outcome_of(job, self.uid) or Outcome(GONE)
        except async_client.ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            outcome = Outcome(GONE)
        payload = {
            "outcome": asdict(outcome),
            "uid": self.uid,
            "options": self.options,
            "starts": self.starts,
        }
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Does what the operator's ``on_kill`` does; the provider's own trigger leaves the Job at work."""
        preconditions = async_client.V1Preconditions(uid=self.uid)
        body = async_client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=preconditions
        )
        async with self.hook.get_conn() as connection:
            try:
                api = async_client.BatchV1Api(connection)
                await api.delete_namespaced_job(self.job_name, self.job_namespace, body=body)
            except async_client.ApiException as error:
                if error.status not in (_NOT_FOUND, _CONFLICT):
                    raise


def _deserialize(job: dict[str, Any]) -> V1Job:
    """The client's model of a Job given as YAML gives it."""

    class Response:
        data = json.dumps(job)

    return ApiClient().deserialize(Response, "V1Job")


def _index(pod: V1Pod) -> int:
    marks = {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    return int(marks.get(_INDEX, -1))


def _container_state(pod: V1Pod) -> Any:
    statuses = (pod.status and pod.status.container_statuses) or []
    return next((status.state for status in statuses if status.name == CONTAINER), None)


def _terminated(pod: V1Pod) -> Any:
    state = _container_state(pod)
    return state.terminated if state else None


def _why_it_waits(pod: V1Pod) -> str:
    """Why a pod does not run; empty where it does, or is about to."""
    for condition in (pod.status and pod.status.conditions) or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    state = _container_state(pod)
    waiting = state.waiting if state else None
    if waiting is None or waiting.reason in ("ContainerCreating", "PodInitializing"):
        return ""
    return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
