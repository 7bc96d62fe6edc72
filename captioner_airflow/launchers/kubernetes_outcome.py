"""How a Job on Kubernetes ended. Needs no Kubernetes client."""

from dataclasses import dataclass
from typing import Any

# Statuses of a JobOutcome. Airflow stores them in the events of deferred tasks.
SUCCEEDED = "done"
FAILED = "failed"
DELETED = "gone"

# Reasons that Kubernetes gives for a failed Job.
BAD_INPUT = "PodFailurePolicy"
WORKER_FAILED = "BackoffLimitExceeded"


@dataclass(frozen=True)
class JobOutcome:
    """How a Job ended.

    Args:
      status: SUCCEEDED, FAILED, or DELETED if the Job vanished before its end was seen.
      reason: Kubernetes' reason for a failure, such as BAD_INPUT.
      message: Kubernetes' explanation of the reason.
    """

    status: str
    reason: str = ""
    message: str = ""


def read_outcome(job: Any, uid: str) -> JobOutcome | None:
    """Returns how a Job ended, or None while it runs.

    Args:
      job: the Job, as the synchronous or the asynchronous client reads it.
      uid: the uid of the Job in question; a Job with another uid has replaced it.
    """
    if job.metadata.uid != uid or job.metadata.deletion_timestamp:
        return JobOutcome(DELETED)
    for condition in (job.status and job.status.conditions) or []:
        if condition.status == "True" and condition.type in ("Complete", "Failed"):
            status = SUCCEEDED if condition.type == "Complete" else FAILED
            return JobOutcome(status, condition.reason or "", condition.message or "")
    return None
