"""The precisions that this machine's processor has instructions for."""

from __future__ import annotations

import os
from pathlib import Path

_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
# Without these, pairs of products of 8-bit numbers are summed in 16 bits, where they overflow.
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8"}
# OpenVINO obeys this variable of oneDNN, by which users limit the instructions that it may use.
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_INT8 = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
_WITHOUT_BFLOAT16 = {*_WITHOUT_INT8, "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI"}


def has_bfloat16() -> bool:
    """Returns whether the processor computes in bfloat16."""
    return bool(_BFLOAT16 & processor_flags()) and instruction_limit() not in _WITHOUT_BFLOAT16


def has_int8() -> bool:
    """Returns whether the processor sums products of 8-bit integers in 32 bits."""
    return bool(_INT8 & processor_flags()) and instruction_limit() not in _WITHOUT_INT8


def processor_flags() -> set[str]:
    """Returns the feature flags of the first processor; empty where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return set(next(flags, "").split())


def instruction_limit() -> str:
    """Returns the name of the newest instructions that OpenVINO may use; empty for all."""
    return os.environ.get(_LIMIT, "").strip().upper()
