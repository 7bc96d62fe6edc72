"""The captioner of the tutorials on Flickr8k, which has read a prefix and says the next word: a peer."""

from __future__ import annotations

import keras

from captioner_core.tables.schemas import FEATURE_DIM

UNITS = 256


def tutorial_model(vocabulary_size: int, longest: int) -> keras.Model:
    """From averaged features [batch, 2048] and a prefix [batch, longest] to probabilities of the next word."""
    image, text = keras.Input((FEATURE_DIM,)), keras.Input((longest,))
    seen = keras.layers.Dense(UNITS, activation="relu")(keras.layers.Dropout(0.5)(image))
    embedded = keras.layers.Embedding(vocabulary_size, UNITS, mask_zero=True)(text)
    read = keras.layers.LSTM(UNITS)(keras.layers.Dropout(0.5)(embedded))
    joined = keras.layers.Dense(UNITS, activation="relu")(keras.layers.add([seen, read]))
    return keras.Model(
        [image, text], keras.layers.Dense(vocabulary_size, activation="softmax")(joined)
    )
