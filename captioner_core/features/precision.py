"""The precisions that a network can run in here."""

from __future__ import annotations

from pathlib import Path

from captioner_core.errors import CaptionerError

_PROCESSOR_FLAGS = {"avx512_bf16", "amx_bf16"}
_GPU_CAPABILITY = (8, 0)  # Ampere's; older ones imitate it


def best_precision() -> str:
    """The fastest that this machine has in hardware."""
    return "bfloat16" if _has_bfloat16() else "float32"


def choose_precision(requested: str, *, is_local: bool) -> str:
    """Returns the precision that a job runs in.

    The choice does not depend on the runner, so that all runners give the same rows. A worker of a
    cluster that lacks the precision says so itself.

    Args:
      requested: One of ``options.PRECISION_CHOICES``; "auto" means the fastest that this machine
        has.
      is_local: Whether the job runs on this machine.

    Raises:
      CaptionerError: The job runs on this machine, which lacks the requested precision.
    """
    if requested == "auto":
        return best_precision()
    if is_local:
        check_precision(requested)
    return requested


def check_precision(precision: str) -> None:
    """Refuses bfloat16 where it would only be imitated, which is slower than float32.

    Raises:
      CaptionerError: nothing here has instructions for it.
    """
    if precision == "bfloat16" and not _has_bfloat16():
        raise CaptionerError(
            "--precision bfloat16 needs a processor with AVX512_BF16 or AMX, or a GPU of compute capability 8.0, "
            "which are not here; choose --precision float32"
        )


def _has_bfloat16() -> bool:
    return bool(_PROCESSOR_FLAGS & _processor_flags()) or _gpu_capability() >= _GPU_CAPABILITY


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(
        next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split()
    )


def _gpu_capability() -> tuple[int, int]:
    """Of the least GPU that TensorFlow uses; (0, 0) where it uses none."""
    # slow to load, and needed only where the processor alone does not decide
    from captioner_core.process.tensorflow_setup import tf

    found = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min((details.get("compute_capability", (0, 0)) for details in found), default=(0, 0))
