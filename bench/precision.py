"""Compares captions and matches of photographs in all precisions that this machine has.

    python -m bench.precision --dataset DIR [--split dev|train] [--count N]

A precision is acceptable if captions and matches are equally good. The table shows the figures of
captions against the human ones, the share of captions that are those of float32, the cosines of
features to those of float32, and how much the matches agree: the rank correlation (Spearman) of
``feature_score`` over pairs of images, and the overlap (Jaccard) of the pairs of images whose
captions reach a score of 0.9.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import pandas as pd  # noqa: E402

from captioner_core.analysis.caption_metrics import read_pixels, score  # noqa: E402
from captioner_core.captioning.captioning_models import CaptioningModels, load_models  # noqa: E402
from captioner_core.features.base import INPUT_SIZE  # noqa: E402
from captioner_core.features.engines import choose_engine, load_engine  # noqa: E402
from captioner_core.options import PRETRAINED  # noqa: E402
from captioner_core.tables import layout  # noqa: E402
from captioner_core.text.encoders import load_encoder  # noqa: E402
from captioner_core.training.dataset import read_captions_by_split  # noqa: E402

COUNT = 1000
BATCH = 32
PAIRS = 100_000
THRESHOLD = 0.9
_FIGURES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "CIDEr")


class Results(NamedTuple):
    """The results of the networks in one precision.

    Args:
      features: float32 [images, FEATURE_DIM], of unit length.
      captions: The caption of each image.
      seconds: The time that both took.
    """

    features: npt.NDArray[np.float32]
    captions: list[str]
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder")
    parser.add_argument("--split", choices=("dev", "train"), default="dev")
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args(argv)
    references = read_captions_by_split(str(args.dataset))[args.split]
    image_ids = sorted(references)[: args.count]
    folder = args.dataset.absolute() / layout.DATASET_IMAGES
    pixels = np.stack([read_pixels(folder, image_id, INPUT_SIZE) for image_id in image_ids])
    engine, _ = choose_engine()
    precisions = sorted(load_engine(engine).precisions(), key=lambda name: name != "float32")
    print(f"{len(image_ids)} photographs of split {args.split}, {engine}")
    exact = _compute(load_models("xception", PRETRAINED, None, "float32", engine), pixels)
    for precision in precisions:
        near = exact
        if precision != "float32":
            near = _compute(load_models("xception", PRETRAINED, None, precision, engine), pixels)
        figures = score(dict(zip(image_ids, near.captions, strict=True)), references).corpus
        shown = ", ".join(
            f"{name} {100 * figures[name]:.2f}" for name in _FIGURES if name in figures
        )
        print(f"\n{precision}: {len(pixels) / near.seconds:.1f} images/s with captions; {shown}")
        if near is not exact:
            _print_agreement(exact, near)
    return 0


def _compute(models: CaptioningModels, pixels: npt.NDArray[np.uint8]) -> Results:
    models.caption(pixels[:BATCH])  # The first call is slower.
    start = time.perf_counter()
    batches = [models.caption(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    seconds = time.perf_counter() - start
    features = np.concatenate([batch.features for batch in batches])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    captions = [caption.text for batch in batches for caption in batch.captions]
    return Results(features, captions, seconds)


def _print_agreement(exact: Results, near: Results) -> None:
    cosines = (exact.features * near.features).sum(axis=1)
    same = np.mean([one == other for one, other in zip(exact.captions, near.captions, strict=True)])
    print(
        f"  captions: {same:.1%} the same; "
        f"features: mean cosine {cosines.mean():.5f}, lowest {cosines.min():.4f}"
    )
    first, second = np.random.default_rng(0).integers(len(cosines), size=(2, PAIRS))
    scores = pd.DataFrame(
        {
            "exact": (exact.features[first] * exact.features[second]).sum(axis=1),
            "near": (near.features[first] * near.features[second]).sum(axis=1),
        }
    )
    correlation = scores[first != second].rank().corr().loc["exact", "near"]
    some = _matches(exact.captions)
    others = _matches(near.captions)
    print(
        f"  feature_score: rank correlation {correlation:.4f}; matches at {THRESHOLD}: "
        f"{len(some)} and {len(others)}, overlap {len(some & others) / len(some | others):.3f}"
    )


def _matches(captions: list[str]) -> set[tuple[int, int]]:
    """Returns the pairs of images whose captions match."""
    encoder = load_encoder("learned")
    vectors = encoder.encode(captions).astype(np.float64)
    scores = encoder.calibration.scores(vectors @ vectors.T)
    rows, columns = np.nonzero(np.triu(scores >= THRESHOLD, k=1))
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
