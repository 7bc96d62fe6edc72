"""Who asks: images grouped by the captions that they share, so that these are searched once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.matching.caption_set import CaptionSet, Int64Array, first_of_runs

_GROUP_IMAGES = (
    4_096  # in one group at most, so that one caption of a million images stays in blocks
)


@dataclass(frozen=True)
class Groups:
    """Images of a set, those with the same captions together.

    Args:
      caption_starts: int64 [groups + 1], where the captions of each group begin …
      caption: int64, … among these, rising within a group.
      image_starts: int64 [groups + 1], where the images of each group begin …
      image: int64 [images], … among these.
      n_shared: the first so many groups are of images that may share; each of the others is one image apart.
    """

    caption_starts: Int64Array
    caption: Int64Array
    image_starts: Int64Array
    image: Int64Array
    n_shared: int

    def __len__(self) -> int:
        return len(self.caption_starts) - 1

    @property
    def of_image(self) -> Int64Array:
        """int64 [images], the group of each image, in the order of ``image``."""
        return np.repeat(np.arange(len(self)), np.diff(self.image_starts))

    def blocks(self, among: range, captions: int) -> Iterator[range]:
        """Some of the groups in runs of at most so many captions, or of one group."""
        first = among.start
        while first < among.stop:
            most = self.caption_starts[first] + captions
            last = int(np.searchsorted(self.caption_starts, most, side="right")) - 1
            last = min(max(last, first + 1), among.stop)
            yield range(first, last)
            first = last


def group_images(asking: CaptionSet, apart: npt.NDArray[np.bool_] | None = None) -> Groups:
    """The groups of a set's images.

    Args:
      asking: the set.
      apart: bool [images], which of them are a group of their own, since their answers depend on more than
        captions; none where not given.
    """
    by_image = np.lexsort((asking.caption, asking.image))
    image, caption = asking.image[by_image], asking.caption[by_image]
    kept = first_of_runs(image, caption)  # the others are the same from another source
    image, caption = image[kept], caption[kept]
    starts = np.searchsorted(image, np.arange(len(asking.image_keys) + 1))
    alone = np.zeros(len(asking.image_keys), bool) if apart is None else apart
    shared: dict[bytes, list[int]] = {}
    for number in np.flatnonzero(~alone).tolist():
        shared.setdefault(caption[starts[number] : starts[number + 1]].tobytes(), []).append(number)
    groups = [
        members[cut : cut + _GROUP_IMAGES]
        for members in shared.values()
        for cut in range(0, len(members), _GROUP_IMAGES)
    ]
    n_shared = len(groups)
    # neighbours share captions
    groups.sort(key=lambda members: caption[starts[members[0]]])
    first_captions = caption[starts[:-1][alone]]
    groups += [
        [number]
        for number in np.flatnonzero(alone)[np.argsort(first_captions, kind="stable")].tolist()
    ]
    captions = [caption[starts[members[0]] : starts[members[0] + 1]] for members in groups]
    return Groups(
        caption_starts=_starts([len(some) for some in captions]),
        caption=np.concatenate([np.empty(0, np.int64), *captions]),
        image_starts=_starts([len(members) for members in groups]),
        image=np.array([number for members in groups for number in members], np.int64),
        n_shared=n_shared,
    )


def _starts(lengths: list[int]) -> Int64Array:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
