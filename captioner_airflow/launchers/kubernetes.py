"""Trains on Kubernetes: one pod for each worker, as an Indexed Job with a headless Service.

All pods and Airflow's own tasks mount the same volume, which holds dataset, features, model folder
and checkpoint. When one worker fails, Kubernetes ends the others, and the launcher restarts all of
them; they continue from the checkpoint.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from captioner_airflow.launchers.base import Event
from captioner_airflow.launchers.kubernetes_manifests import (
    Manifest,
    make_job,
    make_service,
    read_template,
)
from captioner_airflow.launchers.kubernetes_outcome import (
    BAD_INPUT,
    DELETED,
    SUCCEEDED,
    WORKER_FAILED,
    JobOutcome,
)
from captioner_airflow.launchers.kubernetes_settings import KubernetesSettings
from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions

if TYPE_CHECKING:  # kubernetes_job needs the Kubernetes provider, which may not be installed
    from captioner_airflow.launchers.kubernetes_job import TrainingJobOperator


class KubernetesLauncher:
    """Trains with ``options.workers`` pods.

    Args:
      settings: the settings of the cluster.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self._operator: TrainingJobOperator | None = None

    def make_manifests(self, options: TrainOptions, task: str) -> tuple[Manifest, Manifest]:
        """Returns the Job and its Service, without the fields that the cluster and Airflow add.

        Args:
          options: the options of the training.
          task: the task that owns the Job, as ``DAG/RUN/TASK/MAP_INDEX``.

        Raises:
          CaptionerError: if the options or the pod template do not suit this cluster.
        """
        job = make_job(self.settings, options, read_template(self.settings.pod_template), task)
        return job, make_service(job, self.settings.port)

    def launch(self, options: TrainOptions, context: Context) -> None:
        """Trains and waits, or defers the task; see ``Launcher.launch``."""
        self._train(options, context, previous_starts=0)

    def resume(self, context: Context, event: Event) -> None:
        """Continues after the wait of the triggerer; see ``Launcher.resume``."""
        options = TrainOptions(**event["options"])
        operator = self._make_operator(options, context)
        operator.attach(event["uid"])
        operator.logs.copy_new_lines()
        previous_starts: int = event["starts"]
        if not self._has_succeeded(operator, JobOutcome(**event["outcome"]), previous_starts):
            self._train(options, context, previous_starts + 1)

    def cancel(self) -> None:
        """Deletes the current Job with its pods."""
        if self._operator:
            self._operator.on_kill()

    def _train(self, options: TrainOptions, context: Context, previous_starts: int) -> None:
        """Starts the workers, and restarts them until they succeed or have failed too often."""
        while True:
            operator = self._make_operator(options, context)
            self._operator = operator  # set before the start, so that ``cancel`` finds it at once
            operator.start(context)
            if self.settings.deferrable:
                operator.defer_wait(dataclasses.asdict(options), previous_starts)
            try:
                outcome = operator.wait()
            except BaseException:  # the task's time is up, or the cluster can't be reached
                operator.on_kill()
                raise
            if self._has_succeeded(operator, outcome, previous_starts):
                return
            previous_starts += 1

    def _has_succeeded(
        self, operator: TrainingJobOperator, outcome: JobOutcome, previous_starts: int
    ) -> bool:
        """Returns True if the model is written, and False if the workers should be restarted.

        Raises:
          AirflowFailException: if the workers refused their input.
          AirflowException: if the training failed too often, took too long, or its Job was deleted.
        """
        job = f"Job {operator.namespace}/{operator.name}"
        if outcome.status == SUCCEEDED:
            return True
        if outcome.status == DELETED:
            raise AirflowException(
                f"{job} was deleted while it trained; retry the task to continue"
            )
        failures = operator.logs.describe_failures()
        if outcome.reason == BAD_INPUT:
            raise AirflowFailException(f"{job} refused its input: {failures}")
        if outcome.reason != WORKER_FAILED:
            raise AirflowException(
                f"{job} failed ({outcome.reason}: {outcome.message}): {failures}"
            )
        start = previous_starts + 1
        if previous_starts >= self.settings.backoff_limit:
            raise AirflowException(f"{job} failed in the last of {start} starts: {failures}")
        max_starts = self.settings.backoff_limit + 1
        operator.log.warning("%s failed in start %d of %d: %s", job, start, max_starts, failures)
        return False

    def _make_operator(self, options: TrainOptions, context: Context) -> TrainingJobOperator:
        try:
            from captioner_airflow.launchers.kubernetes_job import TrainingJobOperator
        except ImportError as error:
            raise AirflowFailException(
                "the Kubernetes launcher needs Airflow's Kubernetes provider, which can't be "
                f"imported ({error}); install apache-airflow-providers-cncf-kubernetes where tasks "
                "and triggers run"
            ) from error
        instance = context["ti"]
        task = f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.map_index}"
        try:
            job, _ = self.make_manifests(options, task)
        except CaptionerError as error:
            raise AirflowFailException(str(error)) from error
        return TrainingJobOperator(
            task_id=instance.task_id,
            manifest=job,
            port=self.settings.port,
            conn_id=self.settings.kubernetes_conn_id,
            poll_interval_s=self.settings.poll_interval_s,
        )
