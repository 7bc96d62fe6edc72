"""Finds images of one dataset that show the same as images of other datasets.

Photographs are copied between collections, at other sizes and qualities, so their bytes differ.
Their features do not.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core.io.arrays import unit_rows
from captioner_core.tables.columns import text_column, vector_column

SAME_PICTURE = 0.95
"""Cosine of averaged features from which on two images count as the same picture."""
_BATCH_ROWS = 1024


def find_near_duplicates(
    table: pads.Dataset,
    image_ids: Sequence[str],
    others: Sequence[tuple[pads.Dataset, Sequence[str]]],
) -> set[str]:
    """Returns the ids of images that show the same as any of some other images.

    The features of the images are read a few at a time, those of the others all at once.

    Args:
      table: A features table.
      image_ids: The ids of images in that table.
      others: Other features tables of the same backbone, each with ids of images in it.
    """
    features = [rows for other, ids in others for _, rows in _read_unit_rows(other, ids)]
    if not features:
        return set()
    known = np.concatenate(features)
    return {
        image_id
        for ids, rows in _read_unit_rows(table, image_ids)
        for image_id, cosine in zip(ids, (rows @ known.T).max(axis=1).tolist(), strict=True)
        if cosine >= SAME_PICTURE
    }


def _read_unit_rows(
    table: pads.Dataset, image_ids: Sequence[str]
) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
    """Yields ids and averaged features, float32 unit rows [images, FEATURE_DIM]."""
    wanted = pa.array(list(image_ids), pa.string())
    for batch in table.to_batches(columns=["image_id", "feature"], batch_size=_BATCH_ROWS):
        ids = text_column(batch.column("image_id"), "image_id", "features")
        is_wanted = pc.is_in(ids, value_set=wanted)
        vectors = vector_column(batch.column("feature"), "feature", "features")
        ids, vectors = (column.filter(is_wanted) for column in (ids, vectors))
        if len(ids):
            yield ids.to_pylist(), unit_rows(vectors)
