"""Compares how well encoders find captions of the same image, and what a score of 0.9 lets through.

    python -m bench.encoders --dataset DIR --features URI

The dataset must have several captions for each image. Its split dev is used; no encoder was trained
on that. The first caption of each image is a query, and all other captions are searched.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from captioner_core.options import ENCODERS  # noqa: E402
from captioner_core.text.encoders import load_encoder  # noqa: E402
from captioner_core.text.encoders.base import JointEncoder, TextEncoder  # noqa: E402
from captioner_core.text.encoders.judging import judge_pairs  # noqa: E402
from captioner_core.training.dataset import DEV, read_captions_by_split  # noqa: E402
from captioner_core.training.encoder.train_encoder import read_features  # noqa: E402

NUMBERS = ("one", "two", "three", "four")
COLOURS = ("black", "brown", "white", "red")
SCENES = (
    "{} dogs run over the grass",
    "{} children play in the water",
    "{} people stand near a car",
)


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument("--features", required=True, help="features table of its images")
    args = parser.parse_args(argv)
    captions = read_captions_by_split(args.dataset)[DEV]
    features, backbone = read_features(args.features, list(captions))
    print(f"\n{len(captions)} images, one caption of each is the query (shares in %)")
    columns = ("first", "in 10", "image>1", "img>10", "text>1", "text>10")
    print(f"{'encoder':14} {'dim':>5} " + " ".join(f"{name:>7}" for name in columns))
    encoders = [load_encoder(name) for name in ENCODERS]
    for encoder in encoders:
        figures = [
            *_caption_recall(encoder, captions),
            *_image_recall(encoder, captions, features, backbone),
        ]
        shown = " ".join(
            f"{100 * value:7.1f}" if value is not None else f"{'':>7}" for value in figures
        )
        print(f"{encoder.name:14} {encoder.dim:5} {shown}", flush=True)
    print("\nPairs of captions of two images that reach a score of 0.9")
    head = f"{'encoder':14} {'judge':8} {'cosine':>7} {'matches/image':>14}"
    print(f"{head} {'right':>7} {'of all right':>13}")
    for encoder in encoders:
        judge = load_encoder("learned" if encoder.name == "minilm" else "minilm")
        cosines, fits = judge_pairs(captions, encoder, judge)
        cutoff = encoder.calibration.cosine
        reached = fits[cosines >= cutoff]
        each = 2 * len(reached) / len(captions)
        shares = f"{100 * reached.mean():6.1f}% {100 * reached.sum() / fits.sum():12.2f}%"
        print(
            f"{encoder.name:14} {judge.name:8} {cutoff:7.3f} {each:14.2f} {shares}",
            flush=True,
        )
    print("\nMean score of captions that differ in one word, and how many of them reach 0.9")
    print(f"{'encoder':14} {'number':>14} {'colour':>14} {'negation':>14}")
    for encoder in encoders:
        print(
            f"{encoder.name:14} " + " ".join(_confused(encoder, pairs) for pairs in _probes()),
            flush=True,
        )
    return 0


def _caption_recall(encoder: TextEncoder, captions: dict[str, list[str]]) -> tuple[float, float]:
    """Returns recall at 1 and at 10 from one caption of each image to its other captions."""
    texts, owner = _flat(captions)
    vectors = encoder.encode(texts)
    queries = np.flatnonzero(np.diff(owner, prepend=-1))
    scores = vectors[queries] @ vectors.T
    scores[np.arange(len(queries)), queries] = -np.inf
    return _recall(scores, owner)


def _image_recall(
    encoder: TextEncoder,
    captions: dict[str, list[str]],
    features: npt.NDArray[np.float32],
    backbone: str,
) -> tuple[float | None, ...]:
    """Returns recall at 1 and at 10 from images to captions, and from captions to images."""
    if not isinstance(encoder, JointEncoder) or encoder.backbone != backbone:
        return (None,) * 4
    texts, owner = _flat(captions)
    scores = encoder.encode_images(features) @ encoder.encode(texts).T
    return (*_recall(scores, owner), *_recall(scores.T, np.arange(len(captions)), owner))


def _recall(
    scores: npt.NDArray[np.float32],
    owner: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Returns the shares of queries with a correct result in first place, and in the first ten."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    right = owner[best] == (np.arange(len(scores)) if wanted is None else wanted)[:, None]
    return float(right[:, 0].mean()), float(right.any(axis=1).mean())


def _flat(captions: dict[str, list[str]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Returns all captions, and the index of each caption's image."""
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions.values()])
    return [text for texts in captions.values() for text in texts], owner


def _probes() -> tuple[list[tuple[str, str]], ...]:
    """Returns pairs of captions that differ in a number, in a colour, and by a negation."""
    swaps = (
        [
            (scene.format(a), scene.format(b))
            for scene in SCENES
            for a, b in itertools.combinations(words, 2)
        ]
        for words in (NUMBERS, COLOURS)
    )
    negated = [
        (scene.format("two"), scene.format("two").replace(" the ", " no ")) for scene in SCENES
    ]
    return (*swaps, [*negated, ("a man with a hat", "a man without a hat")])


def _confused(encoder: TextEncoder, pairs: list[tuple[str, str]]) -> str:
    one, other = (
        encoder.encode([pair[side] for pair in pairs]).astype(np.float64) for side in (0, 1)
    )
    scores = encoder.calibration.scores(np.einsum("nd,nd->n", one, other))
    return f"{scores.mean():6.2f} {100 * np.mean(scores >= 0.9):5.0f} %"


if __name__ == "__main__":
    sys.exit(main())
