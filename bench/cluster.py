"""Measures the overhead of a cluster: one job without a cluster, and on a real Flink cluster.

    python -m bench.cluster --images DIR [--count N] [--rounds N]

Both captioning jobs run in processes of their own, as users start them. The cluster runs on this
machine, with two TaskManagers on loopback that have one worker process each, so both jobs have the
same processors. The difference is overhead: the time before the first image, and the additional
time for each image.
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

COUNT = 1024
ROUNDS = 3


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.images.parent) as name:
        one, many = (
            _folder(args.images, Path(name, str(count)), count) for count in (1, args.count)
        )
        with FlinkCluster(Path(name, "flink")) as cluster:
            ways = {"without a cluster": [], "Flink, two TaskManagers": cluster.arguments()}
            seconds: dict[tuple[str, Path], list[float]] = {
                key: [] for key in itertools.product(ways, (one, many))
            }
            for _ in range(args.rounds):
                for way, folder in seconds:
                    seconds[way, folder].append(_caption(folder, Path(name, "out"), ways[way]))
    rounds = f"median of {args.rounds} rounds (lowest to highest)"
    print(f"\ncaption_images, {args.count} images, {rounds}")
    print(f"{'way':28} {'1 image, s':>22} {'all, s':>22} {'ms/image':>12} {'ratio':>6}")
    alone = None
    for way in ways:
        each = [
            1000 * (all_s - one_s) / (args.count - 1)
            for one_s, all_s in zip(seconds[way, one], seconds[way, many], strict=True)
        ]
        alone = alone or statistics.median(seconds[way, many])
        ratio = statistics.median(seconds[way, many]) / alone
        spread = [_spread(seconds[way, folder]) for folder in (one, many)]
        print(
            f"{way:28} {spread[0]:>22} {spread[1]:>22} {statistics.median(each):12.1f} {ratio:6.2f}"
        )
    return 0


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def _folder(source: Path, target: Path, count: int) -> Path:
    """Links some images into a folder and returns the folder."""
    target.mkdir()
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files[:count]:
        os.link(file, target / file.name)
    return target


def _caption(images: Path, output: Path, beam_arguments: list[str]) -> float:
    """Runs a captioning job and returns the seconds that it took."""
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
