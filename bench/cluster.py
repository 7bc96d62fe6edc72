"""What a cluster costs: the same job on this machine alone, and on a real Flink cluster beside it.

    python -m bench.cluster --images DIR [--count N] [--rounds N]

Both captioning jobs are started as users start them, a process of their own. The cluster has two TaskManagers on
loopback, each with a worker process, and shares the processors with everything else, so what is measured is overhead:
what a job costs before its first image, and what an image costs more on the way.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.flink import REPOSITORY, FlinkCluster

COUNT, ROUNDS = 1024, 3


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=asked.images.parent) as name:
        one, many = (
            _folder(asked.images, Path(name, str(count)), count) for count in (1, asked.count)
        )
        with FlinkCluster(Path(name, "flink")) as cluster:
            ways = {"this machine alone": [], "Flink, two TaskManagers": cluster.arguments()}
            seconds: dict[tuple[str, Path], list[float]] = {
                key: [] for key in itertools.product(ways, (one, many))
            }
            for _ in range(asked.rounds):
                for way, folder in seconds:
                    seconds[way, folder].append(_caption(folder, Path(name, "out"), ways[way]))
    print(
        f"\ncaption_images, {asked.count} images, median of {asked.rounds} rounds (lowest to highest)"
    )
    print(f"{'way':28} {'1 image, s':>22} {'all, s':>22} {'ms an image':>12} {'ratio':>6}")
    alone = None
    for way in ways:
        each = [
            1000 * (all_s - one_s) / (asked.count - 1)
            for one_s, all_s in zip(seconds[way, one], seconds[way, many], strict=True)
        ]
        alone = alone or statistics.median(seconds[way, many])
        ratio = statistics.median(seconds[way, many]) / alone
        spread = [_spread(seconds[way, folder]) for folder in (one, many)]
        print(
            f"{way:28} {spread[0]:>22} {spread[1]:>22} {statistics.median(each):12.1f} {ratio:6.2f}"
        )
    return 0


def _spread(some: list[float]) -> str:
    return f"{statistics.median(some):.1f} ({min(some):.1f} to {max(some):.1f})"


def _folder(source: Path, target: Path, count: int) -> Path:
    target.mkdir()
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files[:count]:
        os.link(file, target / file.name)
    return target


def _caption(images: Path, output: Path, beam_arguments: list[str]) -> float:
    command = [
        sys.executable,
        "-m",
        "beam_jobs.caption_images",
        f"--images={images}",
        f"--output={output}",
    ]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--no-reuse", *beam_arguments],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
