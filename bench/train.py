"""Times training from features: our loop, and the way of tutorials on Flickr8k.

The peer makes one training sample of every prefix of a caption in a Python generator, uses averaged
features, and calls ``model.fit`` with one-hot next words. Both train on the same captions. The
result is captions per second after graphs are compiled.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from bench.tutorial import UNITS, tutorial_model  # noqa: E402
from captioner_core.captioning.config import CaptionerConfig  # noqa: E402
from captioner_core.captioning.network import Captioner  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.options import TrainOptions  # noqa: E402
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM  # noqa: E402
from captioner_core.text.vocabulary import Vocabulary  # noqa: E402
from captioner_core.training.checkpoint import CheckpointFile  # noqa: E402
from captioner_core.training.dataset import (  # noqa: E402
    FeatureStore,
    Split,
    SplitPart,
    encode_captions,
)
from captioner_core.training.distributed.devices import make_context  # noqa: E402
from captioner_core.training.loop import Trainer  # noqa: E402

IMAGES = 512
PEER_IMAGES = 32
BATCH = 16
EPOCHS = 4
# The size of Flickr8k's vocabulary. Most of these words never occur, but each has a logit.
VOCABULARY = 3000


def main() -> int:
    """Prints the table."""
    captions = {f"{n}": sample.write_captions(n) for n in range(IMAGES)}
    known = Vocabulary.from_captions(text for texts in captions.values() for text in texts)
    vocabulary = Vocabulary((*known.words, *(f"unseen{n}" for n in range(VOCABULARY - len(known)))))
    peer = _tutorial(dict(list(captions.items())[:PEER_IMAGES]), vocabulary)
    ours, waiting = _ours(captions, vocabulary)
    sizes = f"vocabulary {VOCABULARY}, {UNITS} units"
    print(f"\nTraining from features ({sizes}, TensorFlow {tf.__version__})")
    print(f"{'way':48} {'captions/s':>12} {'ratio':>7}")
    print(f"{'a sample for each prefix, generator, model.fit':48} {peer:12.1f} {1:7.1f}")
    print(f"{'our loop, with attention over the grid':48} {ours:12.1f} {ours / peer:7.1f}")
    print(f"our loop waits for its input for {100 * waiting:.1f} % of the time")
    return 0


def _tutorial(captions: dict[str, list[str]], vocabulary: Vocabulary) -> float:
    """Returns the captions per second of the second epoch."""
    longest = CaptionerConfig.max_words + 1
    features = np.random.default_rng(0).random((len(captions), FEATURE_DIM), np.float32)

    def samples() -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        while True:
            for row, texts in enumerate(captions.values()):
                images = []
                prefixes = []
                following = []
                for text in texts:
                    words = vocabulary.encode(text, longest - 1)
                    words = words[: int((words != 0).sum())]
                    for position in range(1, len(words)):
                        images.append(features[row])
                        prefixes.append(np.pad(words[:position], (longest - position, 0)))
                        following.append(
                            keras.utils.to_categorical(words[position], len(vocabulary))
                        )
                yield (np.array(images), np.array(prefixes)), np.array(following)

    model = tutorial_model(len(vocabulary), longest)
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    signature = (
        (tf.TensorSpec([None, FEATURE_DIM]), tf.TensorSpec([None, longest])),
        tf.TensorSpec([None, len(vocabulary)]),
    )
    data = tf.data.Dataset.from_generator(samples, output_signature=signature)
    model.fit(data, steps_per_epoch=len(captions), verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=len(captions), verbose=0)
    return sum(map(len, captions.values())) / (time.perf_counter() - start)


def _ours(captions: dict[str, list[str]], vocabulary: Vocabulary) -> tuple[float, float]:
    """Returns the captions per second of the last epoch, and the share of time spent on input."""
    config = CaptionerConfig(backbone="bench", vocabulary_size=len(vocabulary), units=UNITS)
    random = np.random.default_rng(0)
    store = FeatureStore(
        random.random((len(captions), config.cell_count, CELL_DIM), np.float32).astype(np.float16)
    )
    texts = list(captions.values())
    encoded = encode_captions(texts, vocabulary, config.max_words)
    dev = encode_captions(texts[:BATCH], vocabulary, config.max_words)
    context = make_context(None)
    split = Split(encoded, store, (SplitPart("bench", len(encoded)),))
    with context.strategy.scope():
        captioner = Captioner(config)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(
            dataset=("none",), features=("none",), output=folder, epochs=EPOCHS, batch_size=BATCH
        )
        part = SplitPart("bench", len(dev))
        of_dev = Split(dev, FeatureStore(store.cells[:BATCH]), (part,))
        checkpoint = CheckpointFile(Path(folder, "checkpoint.npz"), "")
        trainer = Trainer(context, captioner, split, of_dev, options, checkpoint)
        state = trainer.fit()
    captions_per_s = state.history[-1]["captions_per_s"]
    input_share = state.history[-1]["input_share"]
    assert isinstance(captions_per_s, float)
    assert isinstance(input_share, float)
    return captions_per_s, input_share


if __name__ == "__main__":
    sys.exit(main())
