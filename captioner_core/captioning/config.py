"""The numbers that a captioner is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.tables.schemas import CELL_DIM, GRID_CELLS

FORMAT_VERSION = 3

# Far beyond what anybody trains; what a stranger's config.json may ask for
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
}


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Everything needed to build the network again.

    Args:
      backbone: name of the backbone whose features it reads.
      vocabulary_size: number of words, the special ones included.
      cell_dim: channels of a cell of the grid.
      attention: ``grid`` to attend over the cells, ``mean`` for their average alone.
      units: width of an LSTM.
      members: captioners whose probabilities are averaged; see ``ensemble``.
      embedding_dim: width of the word embeddings.
      heads: attention heads.
      dropout: share of values dropped in training, at embeddings, features and outputs.
      max_words: longest caption, in words.
      beam_width: hypotheses kept in search unless the user says otherwise.
      length_penalty: exponent of the length normalisation in search; see ``decoding``.
      joint_weight: how much the cosine of image and caption in the joint space counts when one of
        the beams is chosen, beside its normalised log-probability; 0 asks for no encoder.
      joint_encoder: fingerprint of the learned encoder whose space that is; empty without one.
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

    def __post_init__(self) -> None:
        if self.attention not in ("grid", "mean"):
            raise CaptionerError(
                f"attention {self.attention!r} is not known; choose 'grid' or 'mean'"
            )
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:  # which NaN is not
                raise CaptionerError(
                    f"{name} {getattr(self, name)} must be {least} to {most}; train the model again"
                )
        if self.units % self.heads:
            raise CaptionerError(
                f"units {self.units} must be a multiple of heads {self.heads}; choose 256 and 8"
            )

    @property
    def parameters(self) -> int:
        """Weights of all members: those of the embedding, the LSTM, the layers over the image, and the output."""
        units, words, dim = self.units, self.embedding_dim, self.cell_dim
        lstm = 4 * units * (words + units + 1)
        image = 2 * dim + (dim + 1) * units + 5 * (units + 1) * units + self.cells * units
        output = (2 * units + 1) * words + self.vocabulary_size
        return self.members * (self.vocabulary_size * words + lstm + image + output)

    @property
    def cells(self) -> int:
        """Cells attended over."""
        return GRID_CELLS if self.attention == "grid" else 1

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> CaptionerConfig:
        """Reads what ``to_json`` made.

        Raises:
          CaptionerError: another version, or a field missing, unknown or of a wrong type.
        """
        if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
            raise CaptionerError(
                f"model config.json is not of format {FORMAT_VERSION}; train the model again"
            )
        known = {field.name: field for field in dataclasses.fields(cls)}
        given = {name: item for name, item in value.items() if name != "format_version"}
        wrong = set(given) ^ set(known)
        for name, item in given.items():
            expected = (
                {"int": int, "float": (int, float), "str": str}.get(str(known[name].type))
                if name in known
                else None
            )
            if expected is not None and (not isinstance(item, expected) or isinstance(item, bool)):  # type: ignore[arg-type]
                wrong.add(name)
        if wrong:
            raise CaptionerError(
                f"model config.json has a wrong field {sorted(wrong)[0]!r}; train the model again"
            )
        return cls(**given)
