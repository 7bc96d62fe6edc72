"""One start of a training as an Indexed Job: create it, wait for it, delete it.

This module needs the Kubernetes provider of Airflow.
"""

import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.triggers.job import KubernetesJobTrigger
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.triggers.base import TriggerEvent
from kubernetes.client import ApiClient, V1DeleteOptions, V1Job, V1Preconditions
from kubernetes.client.exceptions import ApiException
from kubernetes_asyncio import client as async_client

from captioner_airflow.launchers.kubernetes_logs import WorkerLogs
from captioner_airflow.launchers.kubernetes_manifests import (
    CONTAINER,
    MODEL_FOLDER,
    TASK,
    Manifest,
    make_service,
)
from captioner_airflow.launchers.kubernetes_outcome import DELETED, JobOutcome, read_outcome
from captioner_core.io.json_text import JsonObject

_DELETE_TIMEOUT_S = 600.0  # a pod's grace period of 120 s, and time for a slow node
_SERVICE_TIMEOUT_S = 60.0
_NOT_FOUND = 404
_CONFLICT = 409


class TrainingJobOperator(KubernetesJobOperator):
    """Starts the workers of a training once.

    The provider's operator builds the Job, connects to the cluster and repeats requests that failed
    for a moment. Its ``execute`` is not called, for three reasons: it looks for the pods only once,
    right after it has created the Job, and fails if they do not exist yet; it reads their logs only
    at the end; and it does not read the uid of the new Job, which the Service needs.

    Args:
      manifest: the Job, as ``make_job`` returns it.
      port: the port on which the workers listen.
      conn_id: the id of Airflow's connection to the cluster.
      poll_interval_s: seconds between two checks of the Job's status.
      kwargs: arguments of every operator, such as ``task_id``.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
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
            # The operator overwrites full_job_spec with its own defaults, such as parallelism 1, so
            # each of these values has to be repeated.
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

    def start(self, context: Context) -> None:
        """Creates the Job and its Service, after deleting what an earlier try left.

        Args:
          context: the Airflow context of the task.

        Raises:
          AirflowFailException: if a Job of this name belongs to something else.
          AirflowException: if another task trains this model folder, the earlier Job can't be
            deleted in time, or the task was killed meanwhile.
        """
        self._delete_earlier()
        request = self.build_job_request_obj(context)
        # The provider prefixes the name with "job-", but the workers' host names contain the name.
        request.metadata.name = self.name
        self._stop_if_killed()
        try:
            self.job = self.hook.create_job(request)
        except ApiException as error:
            if error.status == _CONFLICT:
                raise AirflowException(
                    f"{self._label} was created by another task at the same moment; retry the task"
                ) from error
            raise
        self.log.info("Created %s with %d workers", self._label, self.parallelism)
        try:
            self._create_service()
            self._stop_if_killed()
        except BaseException:
            self.delete()
            raise

    def attach(self, uid: str) -> None:
        """Takes over the Job that an earlier process of this task has created.

        Args:
          uid: the uid of that Job.
        """
        metadata = {"name": self.name, "namespace": self.namespace, "uid": uid}
        self.job = _deserialize({"metadata": metadata})

    def wait(self) -> JobOutcome:
        """Waits until the Job has ended, and copies the workers' lines to the task's log."""
        while True:
            outcome = JobOutcome(DELETED) if self._killed else self._read_outcome()
            self.logs.copy_new_lines()
            if outcome:
                return outcome
            time.sleep(self.job_poll_interval)

    def defer_wait(self, options: dict[str, object], previous_starts: int) -> NoReturn:
        """Lets the triggerer wait for the Job.

        Args:
          options: the options of the training, which the event returns.
          previous_starts: how often the workers were started before, which the event returns.

        Raises:
          TaskDeferred: always.
        """
        assert self.job is not None
        trigger = TrainingJobTrigger(
            name=str(self.name),
            namespace=str(self.namespace),
            uid=self.job.metadata.uid,
            conn_id=str(self.kubernetes_conn_id),
            poll_interval_s=self.job_poll_interval,
            options=options,
            starts=previous_starts,
        )
        raise TaskDeferred(trigger=trigger, method_name="execute_complete")

    def delete(self) -> None:
        """Deletes the Job with its pods and its Service, but no other Job of the same name."""
        uid = self.job.metadata.uid if self.job else self._find_own_uid()
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
        """Deletes the Job, and makes a ``start`` or ``wait`` in progress stop."""
        self._killed = True
        self.delete()

    @functools.cached_property
    def logs(self) -> WorkerLogs:
        """The logs of the workers."""
        return WorkerLogs(self.client, str(self.namespace), str(self.name), self.log)

    @property
    def _label(self) -> str:
        return f"Job {self.namespace}/{self.name}"

    def _stop_if_killed(self) -> None:
        """Raises if the task was killed.

        Airflow calls ``on_kill`` from a signal handler, after which the task continues.
        """
        if self._killed:
            raise AirflowException(f"{self._label} is no longer needed; its task was killed")

    def _read_outcome(self) -> JobOutcome | None:
        assert self.job is not None
        try:
            job = self.hook.get_job_status(self.name, self.namespace)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return JobOutcome(DELETED)
            raise
        return read_outcome(job, self.job.metadata.uid)

    def _read_job(self) -> V1Job | None:
        try:
            return self.hook.get_job(self.name, self.namespace)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _find_own_uid(self) -> str | None:
        """Returns the uid of this task's Job in the cluster, if there is one.

        This task may have created it without receiving the answer, or an earlier try may have.
        """
        job = self._read_job()
        own_task = self.manifest["metadata"]["annotations"][TASK]
        if job and (job.metadata.annotations or {}).get(TASK) == own_task:
            return str(job.metadata.uid)
        return None

    def _delete_earlier(self) -> None:
        """Deletes the Job that trained this folder before, and waits until its last pod is gone."""
        job = self._read_job()
        if job is None:
            return
        self._check_may_replace(job)
        self.log.info("Replacing %s, which an earlier start has left", self._label)
        self.job = job
        self.delete()
        self.job = None
        deadline = time.monotonic() + _DELETE_TIMEOUT_S
        while (remaining := self._read_job()) and remaining.metadata.uid == job.metadata.uid:
            if time.monotonic() > deadline:
                raise AirflowException(
                    f"{self._label} was deleted {_DELETE_TIMEOUT_S:.0f} s ago and a pod of it is "
                    "still there; check whether its node is lost"
                )
            time.sleep(self.job_poll_interval)

    def _check_may_replace(self, job: V1Job) -> None:
        """Raises unless a Job is this task's own, or a training that has ended."""
        annotations = job.metadata.annotations or {}
        if MODEL_FOLDER not in annotations:
            raise AirflowFailException(
                f"{self._label} was not created by this launcher; delete it or choose another "
                "--output"
            )
        owner = annotations.get(TASK)
        is_own = owner == self.manifest["metadata"]["annotations"][TASK]
        if not is_own and not read_outcome(job, job.metadata.uid):
            raise AirflowException(
                f"{self._label} of {owner} still trains {annotations[MODEL_FOLDER]}; "
                "wait until it has ended, or delete it"
            )

    def _create_service(self) -> None:
        """Creates the Service.

        A Service that an earlier Job left is deleted first, because the cluster is about to delete
        it together with that Job.
        """
        assert self.job is not None
        body = make_service(self.manifest, self.port, self.job.metadata.uid)
        deadline = time.monotonic() + _SERVICE_TIMEOUT_S
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


class TrainingJobTrigger(KubernetesJobTrigger):
    """Waits for a Job in the triggerer, and deletes it if a user kills the deferred task.

    Args:
      name: the name of the Job.
      namespace: the namespace of the Job.
      uid: the uid of the Job; another Job of the same name is neither awaited nor deleted.
      conn_id: the id of Airflow's connection to the cluster.
      poll_interval_s: seconds between two checks of the Job's status.
      options: the options of the training, which the event returns.
      starts: how often the workers were started before, which the event returns.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        uid: str,
        conn_id: str,
        poll_interval_s: float,
        options: dict[str, object],
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

    def serialize(self) -> tuple[str, JsonObject]:
        """Returns the import path of this class and the arguments that recreate the trigger."""
        return f"{__name__}.{type(self).__name__}", {
            "name": self.job_name,
            "namespace": self.job_namespace,
            "uid": self.uid,
            "conn_id": self.kubernetes_conn_id,
            "poll_interval_s": self.poll_interval,
            "options": self.options,
            "starts": self.starts,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Waits until the Job has ended.

        Yields:
          One event, whose payload has the fields ``outcome``, ``uid``, ``options`` and ``starts``.
        """
        try:
            job = await self.hook.wait_until_job_complete(
                self.job_name, self.job_namespace, self.poll_interval
            )
            outcome = read_outcome(job, self.uid) or JobOutcome(DELETED)
        except async_client.ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            outcome = JobOutcome(DELETED)
        payload = {
            "outcome": asdict(outcome),
            "uid": self.uid,
            "options": self.options,
            "starts": self.starts,
        }
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Deletes the Job, as the operator's ``on_kill`` does; the provider's trigger would not."""
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


def _deserialize(job: Manifest) -> V1Job:
    response = SimpleNamespace(data=json.dumps(job))  # all that the client reads of a response
    return ApiClient().deserialize(response, "V1Job")
