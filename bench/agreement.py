"""Estimates how many people would agree with matches of generated captions, by confidence.

    python -m bench.agreement --dataset DIR --features URI

The packaged model captions the dataset's dev images. Their captions are matched with the human
ones of the other images, and with the generated ones. Nobody was asked about these pairs: MiniLM,
whose cosines were compared with what people said of human captions, compares the match's caption
with what people wrote of the querying image. A caption that was generated from an image fits it
more often than others that are as similar to its human captions, so the estimates are low.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from captioner_core.analysis.caption_metrics import caption_features  # noqa: E402
from captioner_core.captioning.generator import CaptionGenerator  # noqa: E402
from captioner_core.captioning.saved_model import load_model  # noqa: E402
from captioner_core.options import PRETRAINED  # noqa: E402
from captioner_core.text.encoders import TextEncoder, load_encoder  # noqa: E402
from captioner_core.training.dataset import DEV, read_captions_by_split  # noqa: E402

THRESHOLD = 0.9
MIN_CONFIDENCES = (0.0, 0.5, 0.7, 0.8, 0.9)


class Side(NamedTuple):
    """Captions of one side of a match.

    Args:
      texts: The captions.
      image: int64 [captions], the number of each caption's image.
      confidence: float64 [captions]; 1 for human captions.
    """

    texts: list[str]
    image: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument("--features", required=True, help="features table of its images")
    args = parser.parse_args(argv)
    references = read_captions_by_split(args.dataset)[DEV]
    model = load_model(PRETRAINED)
    captions = dict(
        caption_features(
            args.features, list(references), model.config.backbone, CaptionGenerator(model)
        )
    )
    generated = [captions[image_id] for image_id in references]
    numbers = np.arange(len(generated))
    machine = Side(
        [caption.text for caption in generated],
        numbers,
        np.array([caption.confidence for caption in generated], np.float64),
    )
    counts = [len(texts) for texts in references.values()]
    people = Side(
        [text for texts in references.values() for text in texts],
        np.repeat(numbers, counts),
        np.ones(sum(counts)),
    )
    print(f"{args.dataset}: {len(generated)} dev images, score {THRESHOLD} or more")
    print("matched with         confidence  queries  with a match  matches  people say yes")
    for name, index in (("human captions", people), ("generated captions", machine)):
        is_match = _find_matches(machine, index)
        yes_shares = _estimate_yes(index, people)
        for least in MIN_CONFIDENCES:
            is_query = machine.confidence >= least
            is_kept = is_match & is_query[:, np.newaxis] & (index.confidence >= least)
            query, match = np.nonzero(is_kept)
            shown = "none"
            if len(query):
                matched = len(np.unique(query)) / is_query.sum()
                shares = yes_shares[match, machine.image[query]]
                shown = f"{matched:.0%} {len(query):8} {shares.mean():15.1%}"
            print(f"{name:20} {least:10.2f} {is_query.sum():8} {shown:>38}", flush=True)
    return 0


def _find_matches(queries: Side, index: Side) -> npt.NDArray[np.bool_]:
    """Returns which captions of two images reach the threshold: bool [queries, index]."""
    encoder = load_encoder("learned")
    cosines = encoder.encode(queries.texts) @ encoder.encode(index.texts).T
    is_near = encoder.calibration.scores(cosines.astype(np.float64)) >= THRESHOLD
    return np.asarray(is_near & (queries.image[:, np.newaxis] != index.image))


def _estimate_yes(index: Side, people: Side) -> npt.NDArray[np.float64]:
    """Returns the share of people who would say that a caption describes an image.

    Returns:
      float64 [captions of the index, images].
    """
    judge: TextEncoder = load_encoder("minilm")
    curve = judge.calibration.yes_curve
    assert curve is not None
    similarity = judge.encode(index.texts) @ judge.encode(people.texts).T
    starts = np.flatnonzero(np.diff(people.image, prepend=-1))
    return curve.shares(np.maximum.reduceat(similarity, starts, axis=1))


if __name__ == "__main__":
    sys.exit(main())
