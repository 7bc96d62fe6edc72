"""Measures how similar the first matches are when images are ranked with and without features.

    python -m bench.ranking --dataset DIR --features URI

The model that comes with the package captions each image of the split dev. These captions are
queries for the images of the split, which are indexed by their human captions, at a score of 0.9.
The similarity of two images is the mean cosine of all pairs of their human captions. It is measured
with minilm, an encoder that neither ranking uses.
"""

from __future__ import annotations

import argparse
import sys

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from captioner_core.analysis.caption_metrics import caption_features  # noqa: E402
from captioner_core.captioning.generator import CaptionGenerator  # noqa: E402
from captioner_core.captioning.saved_model import load_model  # noqa: E402
from captioner_core.matching import CaptionIndex, ImageVectors, Query, make_records  # noqa: E402
from captioner_core.options import PRETRAINED  # noqa: E402
from captioner_core.text.encoders import load_encoder  # noqa: E402
from captioner_core.text.encoders.base import JointEncoder  # noqa: E402
from captioner_core.training.dataset import DEV, read_captions_by_split  # noqa: E402
from captioner_core.training.encoder.train_encoder import read_features  # noqa: E402

FIRST = (1, 3, 5)


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument(
        "--features", required=True, help="features table of its images, with the grid"
    )
    args = parser.parse_args(argv)
    captions = read_captions_by_split(args.dataset)[DEV]
    model = load_model(PRETRAINED)
    generator = CaptionGenerator(model)
    written = dict(
        caption_features(args.features, list(captions), model.config.backbone, generator)
    )
    encoder = load_encoder("learned")
    assert isinstance(encoder, JointEncoder), "the learned encoder has an image side"
    features, _ = read_features(args.features, list(captions))
    ids = pa.array(list(captions))
    image_vectors = ImageVectors(ids, ids, features, encoder.encode_images(features))
    listed = [(image_id, text) for image_id, texts in captions.items() for text in texts]
    records = make_records(
        [i for i, _ in listed], [text for _, text in listed], ["human"] * len(listed)
    )
    index = CaptionIndex(records, encoder, image_vectors)
    queries = [Query(image_id, (written[image_id].text,)) for image_id in captions]
    similarity = _Similarity(captions)
    print(f"\n{len(queries)} images of split {DEV}")
    print(f"mean similarity of the first matches, of images with at least {max(FIRST)} matches")
    print(f"{'ranked by':12} {'images':>7} " + " ".join(f"{f'first {n}':>9}" for n in FIRST))
    for name, combined in (("score", False), ("combined", True)):
        matches, summary = index.search(queries, threshold=0.9, top_k=max(FIRST), combined=combined)
        many = set(
            summary.filter(pa.array(summary.column("n_written").to_numpy() == max(FIRST)))[
                0
            ].to_pylist()
        )
        rows = [row for row in matches.to_pylist() if row["query_image_id"] in many]
        shown = [
            np.mean(
                [
                    similarity[row["query_image_id"], row["match_image_id"]]
                    for row in rows
                    if row["rank"] <= n
                ]
            )
            for n in FIRST
        ]
        print(
            f"{name:12} {len(many):7} " + " ".join(f"{value:9.3f}" for value in shown), flush=True
        )
    return 0


class _Similarity:
    """The mean cosine of two images' human captions.

    Args:
      captions: the human captions of each image.
    """

    def __init__(self, captions: dict[str, list[str]]) -> None:
        encoder = load_encoder("minilm")
        vectors = [encoder.encode(texts).mean(axis=0) for texts in captions.values()]
        self._vectors = dict(zip(captions, vectors, strict=True))

    def __getitem__(self, pair: tuple[str, str]) -> float:
        return float(self._vectors[pair[0]] @ self._vectors[pair[1]])


if __name__ == "__main__":
    sys.exit(main())
