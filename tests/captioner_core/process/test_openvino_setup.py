"""OpenVINO reports nothing over the network, and nothing else is changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_IMPORT = re.compile(r"^\s*(import|from) openvino\b", re.MULTILINE)

_PROGRAM = """
import sys, threading
from captioner_core.process.openvino_setup import ov, without_telemetry
assert "openvino_telemetry" not in sys.modules
if sys.argv[1:] == ["nncf"]:
    with without_telemetry():
        import nncf
assert "openvino_telemetry" not in sys.modules
assert threading.active_count() == 1, threading.enumerate()
import openvino_telemetry  # other code of the process may still have it
"""


@pytest.mark.parametrize("extra", [(), ("nncf",)])
def test_no_telemetry_is_loaded(extra):
    if extra:
        pytest.importorskip("nncf")
    subprocess.run([sys.executable, "-c", _PROGRAM, *extra], check=True)


def test_only_one_module_imports_openvino():
    """Any other import might come first, and would report it."""
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("captioner_core", "beam_jobs", "captioner_cli", "captioner_airflow", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if _IMPORT.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["captioner_core/process/openvino_setup.py"]
