"""Fuzzes each target in turn.

    python -m fuzz [--seconds 600] [--target images] [--output out/fuzz]

The corpus of a target grows in ``OUTPUT/TARGET/corpus`` from one call to the next. Inputs that
break a target are stored in ``OUTPUT/TARGET``. When the cause is fixed, move such an input to
``tests/fuzz/found/TARGET``, where a test gives it to the target again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner_core.process.environment import quiet_libraries
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

_INPUT_SECONDS = 20  # an input that takes longer is a finding
_INPUT_MEGABYTES = 2048  # a process that takes more memory is a finding
_MAX_INPUT_BYTES = 1 << 16


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes the targets; returns 1 if there are findings, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="time for all targets together (default: 600)"
    )
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="may be repeated (default: all)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/fuzz"),
        help="folder for corpora and findings (default: out/fuzz)",
    )
    arguments = parser.parse_args(argv)
    quiet_libraries()
    targets = arguments.target or list(TARGETS)
    broken = [
        target
        for target in targets
        if not _fuzz(target, max(1, arguments.seconds // len(targets)), arguments.output / target)
    ]
    print(
        f"fuzz: findings in {', '.join(str(arguments.output / target) for target in broken)}"
        if broken
        else "fuzz: clean"
    )
    return 1 if broken else 0


def _fuzz(target: str, seconds: int, folder: Path) -> bool:
    """Fuzzes a target, and returns whether there are no findings."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(target):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    limits = [
        f"-max_total_time={seconds}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_INPUT_MEGABYTES}",
        f"-max_len={_MAX_INPUT_BYTES}",
    ]
    outputs = [f"-artifact_prefix={folder}{os.sep}", "-print_final_stats=1", str(corpus)]
    command = [sys.executable, "-m", "fuzz.session", target, *limits, *outputs]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
