"""Xception features with Ray Data and with Daft, as their documentation shows batch inference.

Ray Data (https://docs.ray.io/en/latest/data/batch_inference.html) takes a class for
``map_batches``, which its actors load once. Daft (https://docs.daft.ai/en/stable/custom-code/cls/)
takes a class whose batch method is the expression of a column. Both read, decode and scale images
with their own functions, call ``predict_on_batch`` for the averaged features and write Parquet.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
SIDE = 299
DIM = 2048


def keras_averages() -> Any:
    """Returns Keras's Xception with our weights, up to the averaged features."""
    import keras

    from captioner_core.weights import assets

    network = keras.applications.Xception(
        weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    network.load_weights(assets.xception_weights())
    return network


class Model:
    """The network, which each worker loads once."""

    def __init__(self) -> None:
        self._network = keras_averages()

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Returns features, float32 [batch, 2048], of pixels, uint8 [batch, 299, 299, 3]."""
        return np.asarray(self._network.predict_on_batch(pixels.astype(np.float32) / 127.5 - 1))


def ray_data(images: Path, output: Path) -> None:
    """Writes the features of a folder with Ray Data; the first call starts Ray."""
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray").setLevel(logging.ERROR)

    class Extract(Model):
        """The class that ``map_batches`` calls."""

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"path": batch["path"], "feature": self.features(batch["image"])}

    found = ray.data.read_images(str(images), size=(SIDE, SIDE), mode="RGB", include_paths=True)
    pool = ray.data.ActorPoolStrategy(size=1)
    found.map_batches(Extract, batch_size=BATCH, compute=pool).write_parquet(str(output))


def daft_frames(images: Path, output: Path) -> None:
    """Writes the features of a folder with Daft."""
    import daft
    from daft import DataType

    @daft.cls(max_concurrency=1)
    class Extract(Model):
        """The class whose method is the expression of a column."""

        @daft.method.batch(
            return_dtype=DataType.fixed_size_list(DataType.float32(), DIM), batch_size=BATCH
        )
        def vectors(self, pictures: daft.Series) -> Any:
            """Returns the features of a batch."""
            flat = pictures.to_arrow().storage.flatten().to_numpy()
            return list(self.features(flat.reshape(-1, SIDE, SIDE, 3)))

    frame = daft.from_glob_path(f"{images}/**")
    picture = daft.col("path").download().decode_image(mode="RGB").resize(SIDE, SIDE)
    frame = frame.with_column("picture", picture.cast(DataType.image("RGB", SIDE, SIDE)))
    frame.select("path", Extract().vectors(daft.col("picture")).alias("feature")).write_parquet(
        str(output)
    )
