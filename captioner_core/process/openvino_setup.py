"""OpenVINO without its telemetry.

Every module that needs OpenVINO imports it from here and nowhere else:
``from captioner_core.process.openvino_setup import ops, ov``.

An import of OpenVINO or NNCF reports its use over the network, from a process that it forks. Both
do without the package openvino_telemetry where it cannot be imported.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_TELEMETRY = "openvino_telemetry"


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Hides the package openvino_telemetry from what is imported while the block runs."""
    before = sys.modules.get(_TELEMETRY)
    # Python raises ImportError for a module that is None here.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


with without_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

__all__ = ["ops", "ov", "without_telemetry"]
