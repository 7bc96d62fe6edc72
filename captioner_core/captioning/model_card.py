"""The model card: what a model was made of, how well it does, and what it is not for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.options import TrainOptions, given_options

_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")

_USE = """## Use

Intended for captioning photographs like those it was trained on; on others its captions are guesses.
It knows the words of its training captions alone, with whatever bias their writers had: decide
nothing about people by what it says of them."""


def model_card(config: CaptionerConfig, metrics: Mapping[str, Any]) -> str:
    """The card, Markdown.

    Args:
      config: of the model.
      metrics: what its metrics.json holds: what training measured, or that of each member of an
        exported model as ``exported_from``, and its evaluations.
    """
    trainings = [one for one in metrics.get("exported_from", [metrics]) if "options" in one]
    parts = [
        f"# Model card: {metrics['model_id']}\n\n{_what(config)}",
        *(_trained(config, trainings) if trainings else ()),
        *_measured(metrics.get("evaluations", [])),
        _USE,
        *(f"## Licence of the training data\n\n{_licence(one)}" for one in trainings[:1]),
    ]
    return "\n\n".join(parts) + "\n"


def _what(config: CaptionerConfig) -> str:
    members = (
        f"{config.members} LSTM captioners whose probabilities are averaged"
        if config.members > 1
        else "LSTM captioner"
    )
    looked_at = "the grid" if config.attention == "grid" else "the average"
    joint = (
        f" Of the beams, the one is taken whose normalised log-probability and {config.joint_weight} times its cosine "
        f"to the image, in the space of `{config.joint_encoder}`, are highest together."
        if config.joint_weight
        else ""
    )
    return (
        f"{members}, attending to {looked_at} of `{config.backbone}` features. {config.vocabulary_size} words, "
        f"{config.units} units, beam width {config.beam_width}, length penalty {config.length_penalty}.{joint}"
    )


def _trained(config: CaptionerConfig, trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    images, captions = trainings[0]["images"], trainings[0]["captions"]
    dev_losses = (one["history"][one["best_epoch"] - 1]["dev_loss"] for one in trainings)
    rows = {
        "trained on": f"{images['train']} images, {captions['train']} captions: split train of {_name(trainings[0])}",
        "chosen on": f"{images['dev']} images: split dev",
        "best epoch": ", ".join(
            f"{one['best_epoch']} of {len(one['history'])}" for one in trainings
        ),
        "dev loss": f"{', '.join(f'{loss:.3f}' for loss in dev_losses)} nats a word",
        "training time": ", ".join(f"{one['seconds']:.0f} s" for one in trainings),
    }
    commands = [
        " ".join(["captioner train", *(f"{name} {shlex.quote(value)}" for name, value in given)])
        for given in (given_options(TrainOptions, one["options"]) for one in trainings)
    ]
    if len(trainings) > 1:
        models = " ".join(f"--model {shlex.quote(one['options']['output'])}" for one in trainings)
        search = f"--beam-width {config.beam_width} --length-penalty {config.length_penalty}"
        search += f" --joint-weight {config.joint_weight}" if config.joint_weight else ""
        commands.append(f"captioner export {models} {search} --output MODEL_DIR")
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return [f"## Training\n\n| | |\n|---|---|\n{table}", "```sh\n" + "\n".join(commands) + "\n```"]


def _measured(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    if not evaluations:
        return []
    names = [name for name in _METRICS if any(name in one["scores"] for one in evaluations)]
    lines = [f"| split | images | beam | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for one in evaluations:
        scores = " | ".join(
            f"{one['scores'][name]:.3f}" if name in one["scores"] else "" for name in names
        )
        lines.append(f"| {one['split']} | {one['images']} | {one['beam_width']} | {scores} |")
    how = f"Against all human captions of each image, with pycocoevalcap; tokenizer: {evaluations[-1]['tokenizer']}."
    return [f"## Measured\n\n{how}", "\n".join(lines)]


def _name(training: Mapping[str, Any]) -> str:
    return f"`{training.get('dataset', {}).get('name') or training['options']['dataset']}`"


def _licence(training: Mapping[str, Any]) -> str:
    return (
        training.get("dataset", {}).get("licence")
        or "The images and captions keep the licence of their dataset."
    )
