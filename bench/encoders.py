"""Compares how well encoders find captions of the same image, and what a score of 0.9 lets through.

    python -m bench.encoders --dataset DIR --features URI [--judgements DIR]

The datasets, one or several, must have several captions for each image. Their split dev is used; no
encoder was trained on that. The first caption of each image is a query, and all other captions are
searched. The judgements are those of ``text.calibration.judgements``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from scipy.stats import kendalltau  # noqa: E402

from captioner_core.analysis.calibrating import agreement_with_people  # noqa: E402
from captioner_core.options import ENCODERS  # noqa: E402
from captioner_core.text.calibration.judgements import (  # noqa: E402
    MEASURED_HALF,
    read_expert_judgements,
    read_judgements,
)
from captioner_core.text.encoders import load_encoder  # noqa: E402
from captioner_core.text.encoders.base import JointEncoder, TextEncoder  # noqa: E402
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
    parser.add_argument("--dataset", action="append", required=True, help="dataset folder")
    parser.add_argument("--features", action="append", required=True, help="its features table")
    parser.add_argument("--judgements", help="folder of what people said of pairs")
    args = parser.parse_args(argv)
    encoders = [load_encoder(name) for name in ENCODERS]
    for dataset, features in zip(args.dataset, args.features, strict=True):
        _print_recall(dataset, features, encoders)
    if args.judgements:
        _print_agreement(args.judgements, encoders)
    print("\nMean score of captions that differ in one word, and how many of them reach 0.9")
    print(f"{'encoder':14} {'number':>14} {'colour':>14} {'negation':>14}")
    for encoder in encoders:
        print(
            f"{encoder.name:14} " + " ".join(_confused(encoder, pairs) for pairs in _probes()),
            flush=True,
        )
    return 0


def _print_recall(dataset: str, uri: str, encoders: Sequence[TextEncoder]) -> None:
    captions = read_captions_by_split(dataset)[DEV]
    features, backbone = read_features(uri, list(captions))
    print(f"\n{dataset}: {len(captions)} images, one caption of each is the query (shares in %)")
    columns = ("first", "in 10", "image>1", "img>10", "text>1", "text>10")
    print(f"{'encoder':14} {'dim':>5} " + " ".join(f"{name:>7}" for name in columns))
    for encoder in encoders:
        figures = [
            *_caption_recall(encoder, captions),
            *_image_recall(encoder, captions, features, backbone),
        ]
        shown = " ".join(
            f"{100 * value:7.1f}" if value is not None else f"{'':>7}" for value in figures
        )
        print(f"{encoder.name:14} {encoder.dim:5} {shown}", flush=True)


def _print_agreement(folder: str, encoders: Sequence[TextEncoder]) -> None:
    """Prints how well encoders agree with people on the half of images that none is fitted to."""
    judgements = read_judgements(folder).half(MEASURED_HALF)
    experts = read_expert_judgements(folder).half(MEASURED_HALF)
    print(
        f"\nAgreement with people: Kendall's tau-c with experts ({len(experts.images)} pairs), "
        f"average precision with the crowd's majority ({len(judgements.images)} pairs), and the "
        "share of yes among pairs that score 0.9"
    )
    head = f"{'encoder':14} {'tau-c':>6} {'precision':>10} {'pairs':>6} {'yes':>7} {'interval':>18}"
    print(head)
    for encoder in encoders:
        tau = kendalltau(experts.cosines(encoder), experts.yes_shares, variant="c").statistic
        precision = _average_precision(judgements.cosines(encoder), judgements.yes_shares >= 0.5)
        agreement = agreement_with_people(judgements, encoder, encoder.calibration)
        low, high = agreement.interval or (float("nan"), float("nan"))
        print(
            f"{encoder.name:14} {100 * tau:6.1f} {precision:10.3f} {agreement.reached:6} "
            f"{agreement.yes_share:7.1%} {low:8.1%} to {high:6.1%}",
            flush=True,
        )


def _average_precision(cosines: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]) -> float:
    """Returns the mean, over the right pairs, of the precision down to each of them."""
    right = is_right[np.argsort(-cosines, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].mean())


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
