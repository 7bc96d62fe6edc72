"""The configuration of a captioner: the sizes of its network and the settings of its search."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from captioner_core.captioning import confidence
from captioner_core.errors import CaptionerError
from captioner_core.tables.schemas import CELL_DIM, GRID_CELLS

FORMAT_VERSION = 3

# Smallest and largest value of each number. A config.json may come from a stranger, so the limits
# bound the memory that it can ask for; they lie far beyond what anybody trains.
_LIMITS: dict[str, tuple[float, float]] = {
    "vocabulary_size": (1, 1_000_000),
    "cell_dim": (1, 16_384),
    "units": (1, 4096),
    "members": (1, 64),
    "embedding_dim": (1, 4096),
    "heads": (1, 256),
    "dropout": (0, 1),
    "max_words": (1, 1000),
    "beam_width": (1, 20),
    "length_penalty": (0, 100),
    "joint_weight": (0, 100),
    "kinds": (0, 65_536),
}

# The Python types that JSON may give for a field, by the field's annotation.
_JSON_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Everything that is needed to build a captioner's network again.

    Args:
      backbone: Name of the backbone whose features the captioner reads.
      vocabulary_size: Number of words, including the special words.
      cell_dim: Number of channels of one cell of the feature grid.
      attention: ``grid`` to attend over the cells, ``mean`` to use only their average.
      units: Width of the LSTM.
      members: Number of captioners whose probabilities are averaged; see ``ensemble``.
      embedding_dim: Width of the word embeddings.
      heads: Number of attention heads.
      dropout: Share of the values that training drops at embeddings, features and outputs.
      max_words: Length of the longest caption, in words.
      beam_width: Default number of hypotheses that the search keeps.
      length_penalty: Exponent of the length normalisation; see ``beam_search``.
      joint_weight: Weight of the cosine between image and caption when one of the beams is chosen.
        It is added to the normalised log-probability. 0 chooses without an encoder.
      joint_encoder: Fingerprint of the learned encoder that computes this cosine, and that the
        confidence was fitted with; an empty string without either.
      kinds: Number of kinds of training images that confidences are measured by; 0 if captions have
        no confidence. See ``confidence``.

    Raises:
      CaptionerError: A value is out of its limits, or the heads do not divide the units.
    """

    backbone: str
    vocabulary_size: int
    cell_dim: int = CELL_DIM
    attention: str = "grid"
    units: int = 256
    members: int = 1
    embedding_dim: int = 256
    heads: int = 8
    dropout: float = 0.4
    max_words: int = 24
    beam_width: int = 3
    length_penalty: float = 0.7
    joint_weight: float = 0.0
    joint_encoder: str = ""
    kinds: int = 0

    def __post_init__(self) -> None:
        if self.attention not in ("grid", "mean"):
            raise CaptionerError(
                f"attention {self.attention!r} is not known; choose 'grid' or 'mean'"
            )
        for name, (minimum, maximum) in _LIMITS.items():
            value = getattr(self, name)
            # ``not`` around the whole comparison also refuses NaN.
            if not minimum <= value <= maximum:
                raise CaptionerError(
                    f"{name} {value} must be {minimum} to {maximum}; train the model again"
                )
        if self.units % self.heads:
            raise CaptionerError(
                f"units {self.units} must be a multiple of heads {self.heads}; choose 256 and 8"
            )

    @property
    def parameter_count(self) -> int:
        """The number of weights of all members together."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every tensor of all members by its name in a model folder.

        The shapes follow from the sizes alone, so that a weights file can be checked without a
        network.
        """
        units = self.units
        gates = 4 * units  # input, forget, candidate and output of the LSTM
        layers = {
            "cell_features": (self.cell_dim, units),
            "first_hidden": (units, units),
            "first_cell": (units, units),
            "keys": (units, units),
            "values": (units, units),
            "queries": (units, units),
            "output_hidden": (2 * units, self.embedding_dim),
            "lstm/lstm_cell": (self.embedding_dim, gates),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "embedding/embeddings": (self.vocabulary_size, self.embedding_dim),
            "lstm/lstm_cell/recurrent_kernel": (units, gates),
            "normalise/gamma": (self.cell_dim,),
            "normalise/beta": (self.cell_dim,),
            "captioner/positions": (self.cell_count, units),
            "captioner/output_bias": (self.vocabulary_size,),
        }
        for name, (inputs, outputs) in layers.items():
            shapes[f"{name}/kernel"] = (inputs, outputs)
            shapes[f"{name}/bias"] = (outputs,)
        if self.members > 1:
            shapes = {
                f"{number}/{name}": shape
                for number in range(self.members)
                for name, shape in shapes.items()
            }
        return shapes | confidence.tensor_shapes(self.kinds)

    @property
    def cell_count(self) -> int:
        """The number of cells that the captioner attends over."""
        return GRID_CELLS if self.attention == "grid" else 1

    def to_json(self) -> dict[str, int | float | str]:
        """Returns the content of ``config.json``."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> CaptionerConfig:
        """Returns the configuration that ``to_json`` turned into JSON.

        Raises:
          CaptionerError: The value has another format version, or a field is missing, unknown or
            of a wrong type.
        """
        if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
            raise CaptionerError(
                f"model config.json is not of format {FORMAT_VERSION}; train the model again"
            )
        # Models of earlier versions have no confidence.
        given = {"kinds": 0} | {name: value[name] for name in value.keys() - {"format_version"}}
        types = {field.name: _JSON_TYPES[str(field.type)] for field in dataclasses.fields(cls)}
        # bool is a subclass of int in Python, but true is not a number in JSON.
        wrong = (given.keys() ^ types.keys()) | {
            name
            for name in given.keys() & types.keys()
            if isinstance(given[name], bool) or not isinstance(given[name], types[name])
        }
        if wrong:
            raise CaptionerError(
                f"model config.json has a wrong field {min(wrong)!r}; train the model again"
            )
        return cls(**given)
