"""Whether a folder of many images costs what one costs, times their number: seconds for an image, and memory.

    python -m bench.scale [--photographs DIR] [--grid]

Extraction, a process of its own for each folder: of small made images with a backbone that hardly computes, so
that the pipeline alone is measured; and, where a folder of photographs is given, with Xception. Seconds for an
image leave out the start, which is what one image takes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from captioner_core.features import load_backbone
from captioner_core.features.precision import best_precision
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS

MADE, PHOTOGRAPHS = (1, 1_000, 10_000, 100_000), (1, 1_000, 8_000)
_ROUNDS, _SHORT = 5, 1_000  # runs of folders so small that a run's luck shows; medians count
_DISTINCT = 997  # pictures that the made images repeat, in files of their own


class LightBackbone:
    """Features that cost next to nothing: the picture's mean colours, over and over."""

    name = "light"
    input_size = 299

    def features(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See ``Backbone.features``."""
        colours = pixels[:, ::50, ::50].reshape(len(pixels), -1).astype(np.float32)
        grid = np.resize(colours[0], (1, GRID_CELLS, CELL_DIM)).repeat(len(pixels), axis=0)
        return np.stack([np.resize(row, FEATURE_DIM) for row in colours]), grid


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photographs", type=Path, help="folder of photographs, used more than once if it is small"
    )
    parser.add_argument("--made", type=int, nargs="*", default=MADE, help="numbers of made images")
    parser.add_argument("--grid", action="store_true", help="with the grid")
    parser.add_argument("--run", nargs=2, metavar=("BACKBONE", "DIR"), help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.run:
        print(json.dumps(_extract(asked.run[0], asked.run[1], grid=asked.grid)))
        return 0
    if asked.made:
        with tempfile.TemporaryDirectory() as name:
            _table(
                "small made images, light backbone", "light", asked.made, _made(Path(name)), asked
            )
    if asked.photographs:
        files = sorted(path for path in asked.photographs.rglob("*") if path.is_file())
        with tempfile.TemporaryDirectory(dir=asked.photographs.parent) as name:
            _table(
                "photographs, Xception", "xception", PHOTOGRAPHS, _linked(files, Path(name)), asked
            )
    return 0


def _table(
    title: str,
    backbone: str,
    sizes: Sequence[int],
    folder_of: Callable[[int], Path],
    asked: argparse.Namespace,
) -> None:
    print(f"{title}\n{'images':>9}{'seconds':>10}{'ms an image':>13}{'peak MB':>9}", flush=True)
    start = 0.0
    for size in sizes:
        command = [sys.executable, "-m", "bench.scale", "--run", backbone, str(folder_of(size))]
        command += ["--grid"] if asked.grid else []
        found = [_measured(command) for _ in range(_ROUNDS if size <= _SHORT else 1)]
        seconds, peak = (
            statistics.median(one[name] for one in found) for name in ("seconds", "peak_mb")
        )
        start = start or seconds
        each = f"{1e3 * (seconds - start) / (size - 1):.3f}" if size > 1 else "start"
        print(f"{size:>9,}{seconds:>10.1f}{each:>13}{peak:>9,.0f}", flush=True)


def _measured(command: Sequence[str]) -> dict[str, float]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _extract(backbone: str, images: str, *, grid: bool) -> dict[str, float]:
    from beam_jobs import extract_features
    from captioner_core.options import ExtractOptions

    load = (
        LightBackbone
        if backbone == "light"
        else functools.partial(load_backbone, backbone, best_precision())
    )
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        extract_features.run(ExtractOptions(images=images, output=output, grid=grid), load=load)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def _made(folder: Path) -> Callable[[int], Path]:
    rng = np.random.default_rng(0)
    distinct = folder / "distinct"
    distinct.mkdir()
    for number in range(_DISTINCT):
        picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((96, 72))
        picture.save(distinct / f"{number}.jpg")
    return _linked(sorted(distinct.iterdir()), folder)


def _linked(files: Sequence[Path], folder: Path) -> Callable[[int], Path]:
    def make(size: int) -> Path:
        made = folder / str(size)
        made.mkdir()
        for number, file in enumerate(itertools.islice(itertools.cycle(files), size)):
            os.link(file, made / f"{number:06d}{file.suffix}")
        return made

    return make


if __name__ == "__main__":
    sys.exit(main())
