"""TensorFlow and Keras with captioner's settings, whatever the user's own settings are.

Every module that needs them imports them from here and nowhere else:
``from captioner_core.process.tensorflow_setup import keras, tf``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from captioner_core.errors import CaptionerError
from captioner_core.process.environment import TENSORFLOW_MEMORY, check_memory, quiet_libraries

_BACKEND = "tensorflow"
# The folder KERAS_HOME cannot exist, so Keras reads no settings from it.
_SETTINGS = {"KERAS_BACKEND": _BACKEND, "KERAS_HOME": f"{os.devnull}/keras"}
_LIMITS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")


@contextlib.contextmanager
def _captioner_settings() -> Iterator[None]:
    """Hides the user's keras.json and environment variables from Keras while it is imported."""
    before = {name: os.environ.pop(name, None) for name in (*_SETTINGS, *_LIMITS)}
    os.environ.update(_SETTINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


check_memory(TENSORFLOW_MEMORY)
quiet_libraries()
with _captioner_settings():
    import keras
    import tensorflow as tf

if keras.config.backend() != _BACKEND:
    raise CaptionerError(
        f"Keras was loaded with the backend {keras.config.backend()!r} before captioner, "
        f"which needs {_BACKEND!r}; unset KERAS_BACKEND in the program that calls captioner "
        f"({sys.argv[0]!r})"
    )
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")

__all__ = ["keras", "tf"]
