"""The precisions in which this machine can run a network."""

from __future__ import annotations

from pathlib import Path

from captioner_core.errors import CaptionerError

_PROCESSOR_FLAGS = {"avx512_bf16", "amx_bf16"}
# NVIDIA Ampere is the first generation with bfloat16 in hardware; older GPUs emulate it.
_GPU_CAPABILITY = (8, 0)


def best_precision() -> str:
    """Returns the fastest precision that this machine supports in hardware."""
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
    """Refuses bfloat16 on a machine that would only emulate it, which is slower than float32.

    Raises:
      CaptionerError: The precision is bfloat16, and neither the processor nor a GPU supports it.
    """
    if precision == "bfloat16" and not _has_bfloat16():
        raise CaptionerError(
            "--precision bfloat16 needs a processor with AVX512_BF16 or AMX, or a GPU of compute "
            "capability 8.0, and this machine has neither; choose --precision float32"
        )


def _has_bfloat16() -> bool:
    return bool(_PROCESSOR_FLAGS & processor_flags()) or _gpu_capability() >= _GPU_CAPABILITY


def processor_flags() -> set[str]:
    """Returns the feature flags of the first processor; empty where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return set(next(flags, "").split())


def _gpu_capability() -> tuple[int, int]:
    """Returns the lowest compute capability of the GPUs in use; (0, 0) without any."""
    # TensorFlow is slow to load, and only needed if the processor alone does not decide.
    from captioner_core.process.tensorflow_setup import tf

    details = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min((one.get("compute_capability", (0, 0)) for one in details), default=(0, 0))
