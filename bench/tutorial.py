"""The captioner of tutorials on Flickr8k, a peer: it predicts the next word from a prefix."""

from __future__ import annotations

import keras

from captioner_core.tables.schemas import FEATURE_DIM

UNITS = 256


def tutorial_model(vocabulary_size: int, longest: int) -> keras.Model:
    """Returns the tutorials' network.

    Args:
      vocabulary_size: the number of words.
      longest: the number of words in a padded prefix.

    Returns:
      A model from averaged features [batch, 2048] and a prefix [batch, longest] to the
      probabilities of the next word [batch, vocabulary_size].
    """
    image = keras.Input((FEATURE_DIM,))
    text = keras.Input((longest,))
    seen = keras.layers.Dense(UNITS, activation="relu")(keras.layers.Dropout(0.5)(image))
    embedded = keras.layers.Embedding(vocabulary_size, UNITS, mask_zero=True)(text)
    read = keras.layers.LSTM(UNITS)(keras.layers.Dropout(0.5)(embedded))
    joined = keras.layers.Dense(UNITS, activation="relu")(keras.layers.add([seen, read]))
    return keras.Model(
        [image, text], keras.layers.Dense(vocabulary_size, activation="softmax")(joined)
    )
