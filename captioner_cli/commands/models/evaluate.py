"""``captioner evaluate``: scores a model's captions against human captions."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from captioner_cli.subcommand import subcommand
from captioner_core.options import EvaluateOptions
from captioner_core.security.redaction import escape_control_chars

if TYPE_CHECKING:
    from captioner_core.analysis.evaluation import Evaluation


def _run(options: EvaluateOptions) -> None:
    from captioner_core.analysis.evaluation import evaluate

    for evaluation in evaluate(options):
        if evaluation.record_error:
            reason = escape_control_chars(str(evaluation.record_error))
            print(
                f"evaluate: the figures were not recorded in the model's folder: {reason}",
                file=sys.stderr,
            )
        if len(options.dataset) > 1:
            print(escape_control_chars(f"dataset {evaluation.figures['dataset']}"))
        _print_captions(evaluation, options.show)
        _print_figures(evaluation)


def _print_captions(evaluation: Evaluation, count: int) -> None:
    image_ids = sorted(evaluation.hypotheses)
    step = max(1, len(image_ids) // max(1, count))
    for image_id in image_ids[::step][:count]:
        generated = evaluation.hypotheses[image_id]
        human = evaluation.references[image_id][0]
        print(escape_control_chars(f"{image_id}: {generated}  |  {human}"))


def _print_figures(evaluation: Evaluation) -> None:
    figures = evaluation.figures
    for name, value in figures["scores"].items():
        line = f"{name:8} {_score(name, value)}"
        if interval := figures["intervals"].get(name):
            low, high = (_score(name, bound).strip() for bound in interval)
            line += f"  (95 % interval {low} to {high})"
        print(line)
    for fifth in figures["reliability"]:
        print(
            f"{fifth['images']} images whose words have probability "
            f"{fifth['word_probability']:.3f}: CIDEr {fifth['cider']:.3f}"
        )
    print(json.dumps(figures))


def _score(name: str, value: float) -> str:
    """Returns a score as papers print it: in percent, except CIDEr."""
    return f"{value:6.3f}" if name == "CIDEr" else f"{100 * value:6.1f}"


register = subcommand(
    "evaluate",
    EvaluateOptions,
    _run,
    help="BLEU, METEOR, ROUGE-L and CIDEr of a model on a dataset's split",
    description="Captions a split of a dataset and scores the captions against all human ones.",
)
