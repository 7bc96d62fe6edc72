"""Fuzzes each target in turn: ``python -m fuzz [--seconds 600] [--target images] [--output out/fuzz]``.

The corpus of a target grows in ``OUTPUT/TARGET/corpus`` from one call to the next. What breaks a target is kept
beside it; ``tests/fuzz/found/TARGET`` is where it goes once it is mended, and a test gives it to the target again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner_core.console.arguments import quiet_libraries
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

_INPUT_SECONDS = 20  # one that takes longer is a finding
_INPUT_MEGABYTES = 2048  # likewise, of the whole process
_LONGEST = 1 << 16  # bytes of an input


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes; 1 where something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="of all targets together (default: 600)"
    )
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="may be repeated (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out/fuzz"), help="for corpora and findings"
    )
    asked = parser.parse_args(argv)
    quiet_libraries()
    targets = asked.target or list(TARGETS)
    broken = [
        target
        for target in targets
        if not _fuzz(target, max(1, asked.seconds // len(targets)), asked.output / target)
    ]
    print(
        f"fuzz: findings in {', '.join(str(asked.output / target) for target in broken)}"
        if broken
        else "fuzz: clean"
    )
    return 1 if broken else 0


def _fuzz(target: str, seconds: int, folder: Path) -> bool:
    """Whether a target stood it."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(target):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    limits = [
        f"-max_total_time={seconds}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_INPUT_MEGABYTES}",
        f"-max_len={_LONGEST}",
    ]
    told = [f"-artifact_prefix={folder}{os.sep}", "-print_final_stats=1", str(corpus)]
    command = [sys.executable, "-m", "fuzz.session", target, *limits, *told]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
