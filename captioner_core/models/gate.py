"""The gate: whether a model is good enough to become the current one."""

from dataclasses import dataclass

from captioner_core.captioning.saved_model import METRICS
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.models import evaluations, registry

_ROUNDING = 1e-9  # In floating point, 0.8 + 0.05 is more than 0.85.


@dataclass(frozen=True)
class Comparison:
    """The CIDEr of a model beside that of the current model.

    Args:
      model: The model that wants to become the current one.
      current: The current model. None if there is none, or if the model is the current one.
      split: The split on which CIDEr was measured.
      margin: The difference by which the model must be better.
      cider: The CIDEr of the model; None if there is no other model to compare it with.
      current_cider: The CIDEr of the current model; None likewise.
    """

    model: str
    current: str | None
    split: str
    margin: float
    cider: float | None = None
    current_cider: float | None = None

    @property
    def is_passed(self) -> bool:
        """Whether the model is better than the current one by the margin, or is unrivalled."""
        if self.cider is None or self.current_cider is None:
            return True
        return self.cider - self.current_cider - self.margin >= -_ROUNDING

    def describe(self) -> str:
        """Returns the outcome in one line."""
        if self.cider is None or self.current_cider is None:
            return f"{self.model!r} passes: no other model is current"
        figures = (
            f"{self.split} CIDEr {self.cider:.4f} of {self.model!r}, {self.current_cider:.4f} of "
            f"the current {self.current!r}, margin {self.margin:g}"
        )
        if self.is_passed:
            return f"{self.model!r} passes: {figures}"
        return f"{figures}: {self.current!r} stays current"


def gate(models: str, model: str, split: str = "dev", margin: float = 0.0) -> Comparison:
    """Returns the comparison of a model with the current one, if the model passes.

    Args:
      models: The folder of models.
      model: The name of a model in it, or the path of any model folder.
      split: The split whose scores are compared.
      margin: The difference in CIDEr by which the model must be better.

    Raises:
      CheckFailed: The model is not good enough.
      CaptionerError: The models cannot be compared; see ``compare``.
    """
    comparison = compare(models, model, split, margin)
    if not comparison.is_passed:
        raise CheckFailed(f"gate not passed: {comparison.describe()}")
    return comparison


def compare(models: str, model: str, split: str, margin: float) -> Comparison:
    """Returns the CIDEr of a model beside that of the current model.

    The scores are those that ``captioner evaluate`` recorded. Two scores can be compared if they
    have the same references, and the same beam width or each model's own.

    Args:
      models: The folder of models.
      model: The name of a model in it, or the path of any model folder.
      split: The split whose scores are compared.
      margin: The difference in CIDEr by which the model must be better.

    Raises:
      CaptionerError: A model or its scores are missing, or no two scores can be compared.
    """
    current = registry.current_model(models)
    folder = model.rstrip("/")
    folder = folder if "/" in folder else registry.model_folder(models, folder)
    scores = evaluations.read_scores(folder, split)
    if current is None:
        return Comparison(model, None, split, margin)
    current_folder = registry.model_folder(models, current)
    # A gate that is tried again after its model was promoted must pass.
    if registry.is_same_folder(folder, current_folder):
        return Comparison(model, None, split, margin)
    candidates = [score for score in scores if score.references]
    rivals = [score for score in evaluations.read_scores(current_folder, split) if score.references]
    remedy = f"evaluate {model!r} and {current!r} on the same dataset with 'captioner evaluate'"
    for name, known in ((model, candidates), (current, rivals)):
        if not known:
            raise CaptionerError(
                f"model {name!r} has no {split} CIDEr with known references in {METRICS}; {remedy}"
            )
    pairs = [(one, two) for one in candidates for two in rivals if one.is_comparable_to(two)]
    if not pairs:
        raise CaptionerError(
            f"the {split} figures of {model!r} and {current!r} are of different references or "
            f"beam widths; {remedy}"
        )
    # Models caption at their own beam width by default, so such pairs come first; then the latest.
    at_default = [pair for pair in pairs if all(score.is_default_width for score in pair)]
    candidate, rival = (at_default or pairs)[-1]
    return Comparison(model, current, split, margin, candidate.cider, rival.cider)
