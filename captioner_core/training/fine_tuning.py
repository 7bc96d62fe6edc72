"""Fine-tuning: a training that starts from an earlier model and learns the words of new captions.

The words that the earlier model knows keep their ids, and new words follow. A new word starts with
the embedding that its spaCy vector suggests, by a linear map that is fitted to the known words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.network import Captioner
from captioner_core.captioning.saved_model import LoadedModel, load_model
from captioner_core.errors import CaptionerError
from captioner_core.options import TrainOptions
from captioner_core.text.encoders.spacy_vectors import SpacyVectors, load_vectors
from captioner_core.text.vocabulary import SPECIAL_WORDS, Vocabulary

EMBEDDINGS = "embedding/embeddings"
OUTPUT_BIAS = "captioner/output_bias"
_RIDGE = 1.0
_RARE_QUANTILE = 0.05


def load_initial_model(options: TrainOptions, backbone: str) -> LoadedModel:
    """Returns the model that a training starts from; of an ensemble, its first member.

    Args:
      options: The options of the training, with ``init``.
      backbone: The name of the backbone whose features the training reads.

    Raises:
      CaptionerError: The model cannot be read, or reads other features.
    """
    model = load_model(options.init)
    if model.config.backbone != backbone:
        raise CaptionerError(
            f"--init {options.init!r} reads features of {model.config.backbone!r}, --features are "
            f"of {backbone!r}; extract the images with the backbone of the model"
        )
    for name in ("units", "attention"):
        wanted = getattr(options, name)
        kept = getattr(model.config, name)
        if wanted not in (getattr(TrainOptions, name), kept):
            raise CaptionerError(
                f"--{name} {wanted!r} is not that of --init {options.init!r}, {kept!r}; leave it "
                "out"
            )
    tensors = dict(model.tensors)
    if model.config.members > 1:
        tensors = {
            name.removeprefix("0/"): value
            for name, value in tensors.items()
            if name.startswith("0/")
        }
    config = dataclasses.replace(
        model.config,
        members=1,
        dropout=options.dropout,
        beam_width=options.beam_width,
        joint_weight=0.0,
        joint_encoder="",
        kinds=0,
    )
    return dataclasses.replace(model, config=config, tensors=tensors)


def extend_vocabulary(
    vocabulary: Vocabulary, captions: Iterable[str], min_count: int
) -> Vocabulary:
    """Returns a vocabulary with the words of some captions behind those that it has.

    Args:
      vocabulary: The vocabulary.
      captions: The captions.
      min_count: How often a new word must occur to be included.
    """
    known = set(vocabulary.words)
    found = Vocabulary.from_captions(captions, min_count).words
    return Vocabulary((*vocabulary.words, *(word for word in found if word not in known)))


def initial_config(model: LoadedModel, vocabulary: Vocabulary) -> CaptionerConfig:
    """Returns the configuration of a network that starts from a model with more words."""
    return dataclasses.replace(model.config, vocabulary_size=len(vocabulary))


def assign_weights(captioner: Captioner, model: LoadedModel, vocabulary: Vocabulary) -> None:
    """Gives a network the weights of a model, with rows for the words that are new.

    Args:
      captioner: The network, which knows the words of ``vocabulary``.
      model: The model, whose words come first in it.
      vocabulary: The words of the network.
    """
    added = vocabulary.words[len(model.vocabulary) :]
    tensors = {name: value.astype(np.float32) for name, value in model.tensors.items()}
    if added:
        embeddings = tensors[EMBEDDINGS]
        rows = _suggest_embeddings(model.vocabulary.words, embeddings, added, load_vectors())
        tensors[EMBEDDINGS] = np.concatenate([embeddings, rows])
        bias = tensors[OUTPUT_BIAS]
        # A new word is at first as improbable as the rarest ones.
        rare = np.full(len(added), np.quantile(bias[len(SPECIAL_WORDS) :], _RARE_QUANTILE))
        tensors[OUTPUT_BIAS] = np.concatenate([bias, rare.astype(np.float32)])
    for name, weight in captioner.named_weights().items():
        weight.assign(tensors[name])


def _suggest_embeddings(
    known: tuple[str, ...],
    embeddings: npt.NDArray[np.float32],
    added: tuple[str, ...],
    vectors: SpacyVectors,
) -> npt.NDArray[np.float32]:
    """Returns embeddings for new words: float32 [added, embedding_dim].

    The map from spaCy's vectors to embeddings is a ridge regression over the known words. A word
    without a vector gets the mean embedding.

    Args:
      known: The known words.
      embeddings: float32 [known, embedding_dim].
      added: The new words.
      vectors: spaCy's vectors.
    """
    mean = embeddings[len(SPECIAL_WORDS) :].mean(axis=0)
    has_vector = {
        word: vectors.unit_vector(word) for word in (*known[len(SPECIAL_WORDS) :], *added)
    }
    rows = [number for number, word in enumerate(known) if has_vector.get(word) is not None]
    inputs = np.array([has_vector[known[number]] for number in rows], np.float64)
    inputs = inputs.reshape(-1, vectors.dim)
    targets = (embeddings[rows] - mean).astype(np.float64)
    gram = inputs.T @ inputs + _RIDGE * np.eye(vectors.dim)
    weights = np.linalg.solve(gram, inputs.T @ targets)
    suggested = [
        mean if (vector := has_vector[word]) is None else mean + vector @ weights for word in added
    ]
    return np.array(suggested, np.float32)
