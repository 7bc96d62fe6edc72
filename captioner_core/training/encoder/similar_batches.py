"""The order of images in an epoch: batches whose images are hard to tell apart.

In a batch of any images, most captions differ in their subject, so a model learns subjects and
hardly anything finer: a black dog is as good as a brown one. So each batch is made of a few chunks,
and the images of a chunk are similar.
"""

import numpy as np
import numpy.typing as npt

_CLUSTER_ROUNDS = 6


def order_by_similarity(
    vectors: npt.NDArray[np.float32], *, clusters: int, chunk: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns images in an order in which each chunk holds similar ones.

    The images that do not fill a chunk of their cluster are left out; which ones, is random.

    Args:
      vectors: float32 unit rows [images, dim]; similar images have similar ones.
      clusters: the number of clusters into which the images are divided, by k-means.
      chunk: the number of images in a chunk.
      random: decides the order of the chunks, and that within clusters.
    """
    centres = cluster_centres(vectors, min(clusters, len(vectors)), random)
    cluster = np.argmax(vectors @ centres.T, axis=1)
    chunks = []
    for number in range(cluster.max() + 1):
        images = random.permutation(np.flatnonzero(cluster == number))
        whole = len(images) // chunk * chunk
        chunks += np.split(images[:whole], whole // chunk) if whole else []
    if not chunks:
        return random.permutation(len(vectors))
    return np.concatenate([chunks[number] for number in random.permutation(len(chunks))])


def cluster_centres(
    vectors: npt.NDArray[np.float32], clusters: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns the centres of clusters: float32 unit rows [clusters, dim], by spherical k-means.

    Dhillon and Modha 2001 (https://doi.org/10.1023/A:1007612920971).

    Args:
      vectors: float32 unit rows [rows, dim].
      clusters: the number of clusters, at most that of the rows.
      random: chooses the rows that the clusters start from.
    """
    centres = vectors[random.choice(len(vectors), clusters, replace=False)]
    for _ in range(_CLUSTER_ROUNDS):
        cluster = np.argmax(vectors @ centres.T, axis=1)
        for number in range(clusters):
            members = vectors[cluster == number]
            if len(members):
                total = members.sum(axis=0)
                centres[number] = total / max(float(np.linalg.norm(total)), 1e-12)
    return centres
