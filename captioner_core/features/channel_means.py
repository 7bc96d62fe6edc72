"""The means of a network's channels over photographs, which correct rounding to bfloat16.

``xception_means.npz`` is part of the package; ``bench/channel_means.py`` makes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_FILE = Path(__file__).with_name("xception_means.npz")


class ChannelMeans(NamedTuple):
    """The means of one convolution's channels over photographs.

    Args:
      inputs: float32 [channels], the means of the convolution's input.
      between: float32 [channels], the means between the depthwise and the pointwise kernel of a
        separable convolution. None for any other convolution.
    """

    inputs: npt.NDArray[np.float32]
    between: npt.NDArray[np.float32] | None


NetworkMeans = Mapping[int, ChannelMeans]
"""The means of every convolution by its number in the order of the network's layers."""


def load_channel_means() -> NetworkMeans:
    """Returns the packaged means of Xception's channels."""
    with np.load(_FILE, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    numbers = sorted({int(name.partition(".")[0]) for name in arrays})
    return {
        number: ChannelMeans(arrays[f"{number}.taken"], arrays.get(f"{number}.between"))
        for number in numbers
    }


def save_channel_means(means: NetworkMeans) -> None:
    """Replaces the packaged means, as float16."""
    arrays = {f"{number}.taken": mean.inputs.astype(np.float16) for number, mean in means.items()}
    for number, mean in means.items():
        if mean.between is not None:
            arrays[f"{number}.between"] = mean.between.astype(np.float16)
    np.savez_compressed(_FILE, allow_pickle=False, **arrays)
