"""Times captioning from features: the package's model with both engines, and tutorials' loop.

    python -m bench.caption [--images N] [--rounds N]

The peer calls ``model.predict`` once for each word of each image, as tutorials on Flickr8k do. It
generates as many words as our caption of the same image has. Its network is the tutorials', with
one LSTM over averaged features. Ours is an ensemble of three networks that attend to the grid. The
engines take turns, so that a slower machine slows both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402

from bench.timing import compare  # noqa: E402
from bench.tutorial import tutorial_model  # noqa: E402
from captioner_core.captioning.generator import CaptionGenerator  # noqa: E402
from captioner_core.captioning.saved_model import load_model  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.features import load_backbone  # noqa: E402
from captioner_core.images import decoding  # noqa: E402
from captioner_core.options import PRETRAINED  # noqa: E402

IMAGES = 256
PEER_IMAGES = 8
BATCH = 32
ROUNDS = 5
WIDTHS = (1, 3, 10)
ENGINES = ("tensorflow", "openvino")


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        sample.build(Path(folder), images=args.images)
        files = sorted(Path(folder, "images").iterdir())
        pixels = np.stack([decoding.decode(file.read_bytes())[0] for file in files])
    features, grid = load_backbone("xception").features(pixels)
    model = load_model(PRETRAINED)
    first = CaptionGenerator(model, 1).generate(features[:PEER_IMAGES], grid[:PEER_IMAGES])
    lengths = [caption.n_tokens for caption in first]
    longest = model.config.max_words + 1
    tutorial = tutorial_model(model.config.vocabulary_size, longest)

    def loop() -> None:
        """Captions the peer's images word by word."""
        for feature, words in zip(features, lengths, strict=False):
            prefix = [1]
            for _ in range(words + 1):
                padded = np.pad(prefix, (longest - len(prefix), 0))
                inputs = [feature[np.newaxis], padded[np.newaxis]]
                probabilities = tutorial.predict(inputs, verbose=0)
                prefix.append(int(probabilities[0].argmax()))

    def batches(generator: CaptionGenerator) -> None:
        """Captions all images in batches."""
        for start in range(0, len(features), BATCH):
            generator.generate(features[start : start + BATCH], grid[start : start + BATCH])

    members = model.config.members
    for width in WIDTHS:
        ways = {
            engine: partial(batches, CaptionGenerator(model, width, engine)) for engine in ENGINES
        }
        title = f"Beam of {width}, batches of {BATCH}, {members} members"
        compare(title, ways, amount=len(features), unit="captions", rounds=args.rounds)
    peer = {"the tutorials' loop, model.predict per word": loop}
    compare("Captions one by one", peer, amount=len(lengths), unit="captions", rounds=args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
