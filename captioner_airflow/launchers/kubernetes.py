"""Trains on Kubernetes: one pod for each worker, together an Indexed Job with a headless Service.

All pods and Airflow's own tasks mount one volume, which holds dataset, features, model folder and checkpoint.
Where a worker fails, Kubernetes ends the others, and the launcher starts all anew; they go on from the checkpoint.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from captioner_airflow.launchers.kubernetes_manifests import make_job, make_service, read_template
from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions

if TYPE_CHECKING:
    from airflow.sdk import Context

    from captioner_airflow.launchers.kubernetes_job import Outcome, TrainingJobOperator

POD_TEMPLATE = Path(__file__).with_name("pod_template.yaml")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, kw_only=True)
class KubernetesLauncher:
    """Trains with ``options.workers`` pods.

    Args:
      image: of the workers; docker/Dockerfile.gpu makes it.
      claim: name of the PersistentVolumeClaim (ReadWriteMany) that all share.
      mount_path: where the pods, and Airflow's tasks, find that volume.
      namespace: of Job, Service and claim.
      gpus: of each worker; 0 trains on CPUs.
      kubernetes_conn_id: Airflow's connection to the cluster.
      service_account: of the pods; the namespace's default where not given.
      backoff_limit: how often all workers are started anew after one failed, before the task fails.
      active_deadline_s: after which a start's pods are ended, done or not.
      deferrable: whether the triggerer waits instead of a task slot; the log then comes at the end.
      poll_interval_s: seconds between two looks at the Job.
      port: on which the workers listen to each other.
      pod_template: file of what else a pod needs: node selector, tolerations, memory, security context.

    Raises:
      ValueError: a setting breaks a rule; the line names value, rule and remedy.
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
    _started: list[TrainingJobOperator] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        account, folder = self.service_account, self.mount_path
        named = bool(_IMAGE.fullmatch(self.image))
        _check(
            named,
            "image",
            self.image,
            "must be an image's name",
            "such as registry.example/captioner:1",
        )
        valid = bool(_SUBDOMAIN.fullmatch(self.claim))
        _check(valid, "claim", self.claim, "must be a claim's name", "see kubectl get pvc")
        valid = bool(_LABEL.fullmatch(self.namespace))
        _check(
            valid,
            "namespace",
            self.namespace,
            "must be a namespace's name",
            "see kubectl get namespaces",
        )
        valid = account is None or bool(_SUBDOMAIN.fullmatch(account))
        _check(
            valid,
            "service_account",
            account,
            "must be an account's name",
            "leave it out for the default one",
        )
        valid = (
            folder.startswith("/")
            and folder != "/"
            and posixpath.normpath(folder) == folder
            and ":" not in folder
        )
        _check(
            valid,
            "mount_path",
            folder,
            "must be an absolute folder other than /",
            "/data is the default",
        )
        _check(
            bool(self.kubernetes_conn_id),
            "kubernetes_conn_id",
            "",
            "is empty",
            "name an Airflow connection",
        )
        _check_range("gpus", self.gpus, 0, 16, "0 trains on CPUs")
        _check_range("backoff_limit", self.backoff_limit, 0, 100, "3 is the default")
        _check_range(
            "active_deadline_s",
            self.active_deadline_s,
            60,
            31_536_000,
            "172800, two days, is the default",
        )
        _check_range("port", self.port, 1024, 65_535, "23456 is the default")
        interval = self.poll_interval_s
        _check(
            0 < interval <= 3600,
            "poll_interval_s",
            interval,
            "must be above 0, at most 3600",
            "10 is the default",
        )
        _check(
            Path(self.pod_template).is_file(),
            "pod_template",
            str(self.pod_template),
            "is no file",
            "leave it out for the one that comes with the package",
        )

    def manifests(self, options: TrainOptions, task: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Job and Service, as they are sent but for what the cluster and Airflow add.

        Args:
          options: of the training.
          task: whose Job it is, such as ``DAG/RUN/TASK/MAP_INDEX``.

        Raises:
          CaptionerError: options or pod template can't be of a training on this cluster.
        """
        job = make_job(self, options, read_template(self.pod_template), task)
        return job, make_service(job, self.port)

    def launch(self, options: TrainOptions, context: Context) -> None:
        self._train(options, context, starts=0)

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        from captioner_airflow.launchers.kubernetes_job import Outcome

        options = TrainOptions(**event["options"])
        operator = self._operator(options, context)
        operator.attach(event["uid"])
        operator.tell()
        if not self._is_done(operator, Outcome(**event["outcome"]), event["starts"]):
            self._train(options, context, event["starts"] + 1)

    def end(self) -> None:
        for operator in self._started:
            operator.on_kill()

    def _train(self, options: TrainOptions, context: Context, starts: int) -> None:
        """Starts the workers until they are done, or have failed too often; ``starts`` counts those before."""
        while True:
            operator = self._operator(options, context)
            self._started[:] = [operator]  # before it starts: a kill meanwhile must find it
            operator.start(context)
            if self.deferrable:
                operator.wait_elsewhere(dataclasses.asdict(options), starts)
            try:
                outcome = operator.wait()
            except BaseException:  # the task's time is up, or the cluster can't be reached
                operator.on_kill()
                raise
            if self._is_done(operator, outcome, starts):
                return
            starts += 1

    def _is_done(self, operator: TrainingJobOperator, outcome: Outcome, starts: int) -> bool:
        """True where the model is written, False where another start is worth it.

        Raises:
          AirflowFailException: the workers refused their input.
          AirflowException: training failed too often, took too long, or its Job is gone.
        """
        from captioner_airflow.launchers import kubernetes_job

        which = f"Job {operator.namespace}/{operator.name}"
        if outcome.status == kubernetes_job.DONE:
            return True
        if outcome.status == kubernetes_job.GONE:
            raise AirflowException(
                f"{which} was deleted while it trained; run the task again to go on"
            )
        said = operator.failures()
        if outcome.reason == kubernetes_job.BAD_INPUT:
            raise AirflowFailException(f"{which} refused its input: {said}")
        if outcome.reason != kubernetes_job.WORKER_FAILED:
            raise AirflowException(f"{which} failed ({outcome.reason}: {outcome.message}): {said}")
        if starts >= self.backoff_limit:
            raise AirflowException(f"{which} failed, the last of {starts + 1} starts: {said}")
        operator.log.warning(
            "%s failed, start %d of %d: %s", which, starts + 1, self.backoff_limit + 1, said
        )
        return False

    def _operator(self, options: TrainOptions, context: Context) -> TrainingJobOperator:
        try:
            from captioner_airflow.launchers.kubernetes_job import TrainingJobOperator
        except ImportError as error:
            raise AirflowFailException(
                f"the Kubernetes launcher needs Airflow's Kubernetes provider, which can't be imported ({error}); "
                "install apache-airflow-providers-cncf-kubernetes where tasks and triggers run"
            ) from error
        instance = context["ti"]
        task = f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.map_index}"
        try:
            job, _ = self.manifests(options, task)
        except CaptionerError as error:
            raise AirflowFailException(str(error)) from error
        return TrainingJobOperator(
            task_id=instance.task_id,
            manifest=job,
            port=self.port,
            conn_id=self.kubernetes_conn_id,
            poll_interval_s=self.poll_interval_s,
        )


def _check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{name} {value!r} {rule}; {remedy}")


def _check_range(name: str, value: int, least: int, most: int, remedy: str) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    _check(valid, name, value, f"must be {least} to {most}", remedy)
