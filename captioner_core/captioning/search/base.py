"""The interface of a search for captions, and the table of the engines that run one."""

import importlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.errors import CaptionerError
from captioner_core.options import DEFAULT_ENGINE

# Name -> module and class. One of the modules loads TensorFlow, so they are imported only when
# needed. The search is too irregular for OpenVINO, so the engine of that name uses NumPy for it.
_SEARCHES = {
    "openvino": ("captioner_core.captioning.search.numpy_search", "NumpySearch"),
    "tensorflow": ("captioner_core.captioning.search.tensorflow_search", "TensorFlowSearch"),
}


class Hypotheses(NamedTuple):
    """The hypotheses of each image, best first.

    If there are fewer captions than beams, the last hypotheses are empty and their ``log_prob``
    is -1e9 or less.

    Args:
      words: int32 [batch, beams, max_words + 1], each caption followed by END and then PAD.
      log_prob: float32 [batch, beams], the natural log of the caption's probability, including
        the probability of END.
    """

    words: npt.NDArray[np.int32]
    log_prob: npt.NDArray[np.float32]


class CaptionSearch(Protocol):
    """Beam search over batches of images. Its rules are those of ``beam_search``."""

    def find(self, cells: npt.NDArray[Any]) -> Hypotheses:
        """Returns the hypotheses of each image, best first.

        Those of an image do not depend on the other images, except by rounding.

        Args:
          cells: float [batch, cells, cell_dim]; see ``attended_cells``.
        """
        ...


def load_search(
    model: LoadedModel, beam_width: int | None = None, engine: str = DEFAULT_ENGINE
) -> CaptionSearch:
    """Returns a search with the weights of a model.

    Args:
      model: The captioner.
      beam_width: The number of hypotheses kept. None uses the model's own beam width.
      engine: ``openvino`` for processors, or ``tensorflow`` for GPUs.

    Raises:
      CaptionerError: The engine is not known.
    """
    if engine not in _SEARCHES:
        raise CaptionerError(
            f"engine {engine!r} is not known; choose one of {', '.join(_SEARCHES)}"
        )
    module, class_name = _SEARCHES[engine]
    search_class = getattr(importlib.import_module(module), class_name)
    search: CaptionSearch = search_class.from_model(model, beam_width or model.config.beam_width)
    return search
