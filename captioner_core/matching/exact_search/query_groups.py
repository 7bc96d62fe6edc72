"""Groups the querying images that have the same captions, so that these are searched only once."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np

from captioner_core.matching.exact_search.arrays import BoolArray, Int64Array, run_starts
from captioner_core.matching.exact_search.caption_set import CaptionSet

MAX_GROUP_IMAGES = 4_096
"""Larger groups are cut, so that a caption of a million images is still processed in blocks."""


@dataclass(frozen=True)
class QueryGroups:
    """The images of a caption set in groups, in which all images have the same captions.

    A group is searched as one query. A *member* is a position in ``image``: one image in its group.

    Args:
      caption_starts: int64 [groups + 1]. The captions of group ``g`` are
        ``caption[caption_starts[g]:caption_starts[g + 1]]``.
      caption: int64, caption numbers, ascending within a group.
      image_starts: int64 [groups + 1]. The images of group ``g`` are
        ``image[image_starts[g]:image_starts[g + 1]]``.
      image: int64 [images], image numbers.
      n_shared: how many groups may have several images. These come first; each of the other groups
        is one image that must not share its results.
    """

    caption_starts: Int64Array
    caption: Int64Array
    image_starts: Int64Array
    image: Int64Array
    n_shared: int

    def __len__(self) -> int:
        return len(self.caption_starts) - 1

    @property
    def group_sizes(self) -> Int64Array:
        """int64 [groups], the number of images in each group."""
        return np.diff(self.image_starts)

    @property
    def group_of_member(self) -> Int64Array:
        """int64 [images], the group of each member."""
        return np.repeat(np.arange(len(self)), self.group_sizes)

    def split_range(self, groups: range, max_captions: int) -> Iterator[range]:
        """Splits a range of groups into ranges with at most so many captions, or with one group.

        Args:
          groups: the groups to split.
          max_captions: the largest number of captions in a range.

        Yields:
          Ranges of groups, in order.
        """
        first = groups.start
        while first < groups.stop:
            limit = self.caption_starts[first] + max_captions
            last = int(np.searchsorted(self.caption_starts, limit, side="right")) - 1
            last = min(max(last, first + 1), groups.stop)
            yield range(first, last)
            first = last


def group_images(queries: CaptionSet, is_singleton: BoolArray | None = None) -> QueryGroups:
    """Groups the images of a set by their captions.

    Args:
      queries: the set.
      is_singleton: bool [images], which images are a group of their own, because their results
        depend on more than their captions. None if no image is.
    """
    by_image = np.lexsort((queries.posting_caption, queries.posting_image))
    image = queries.posting_image[by_image]
    caption = queries.posting_caption[by_image]
    # A caption may come from two sources; it is searched once.
    distinct = run_starts(image, caption)
    image = image[distinct]
    caption = caption[distinct]
    n_images = len(queries.image_keys)
    starts = np.searchsorted(image, np.arange(n_images + 1))
    if is_singleton is None:
        is_singleton = np.zeros(n_images, bool)
    by_captions: dict[bytes, list[int]] = {}
    for number in np.flatnonzero(~is_singleton).tolist():
        captions_of_image = caption[starts[number] : starts[number + 1]]
        by_captions.setdefault(captions_of_image.tobytes(), []).append(number)
    shared = [
        images[start : start + MAX_GROUP_IMAGES]
        for images in by_captions.values()
        for start in range(0, len(images), MAX_GROUP_IMAGES)
    ]
    # Neighbouring groups then share captions, which a block of groups searches only once.
    shared.sort(key=lambda images: caption[starts[images[0]]])
    singletons = np.flatnonzero(is_singleton)
    singletons = singletons[np.argsort(caption[starts[singletons]], kind="stable")]
    groups = [*shared, *([number] for number in singletons.tolist())]
    captions = [caption[starts[images[0]] : starts[images[0] + 1]] for images in groups]
    return QueryGroups(
        caption_starts=_starts(captions),
        caption=np.concatenate([np.empty(0, np.int64), *captions]),
        image_starts=_starts(groups),
        image=np.array([number for images in groups for number in images], np.int64),
        n_shared=len(shared),
    )


def _starts(parts: Sequence[Sized]) -> Int64Array:
    """Returns where each part starts when all are concatenated, and the total length last."""
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)
