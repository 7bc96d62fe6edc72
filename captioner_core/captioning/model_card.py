"""The model card: what a model was trained on, how well it does, and what it is not for."""

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.options import TrainOptions, given_options

# The order of the columns. Scores with other names follow.
_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")

# Line breaks are part of the card, so that a card written again does not change.
_USE = """## Use

Intended for captioning photographs like those it was trained on; on others its captions are \
guesses.
It knows the words of its training captions alone, with whatever bias their writers had: decide
nothing about people by what it says of them."""


def model_card(config: CaptionerConfig, metrics: Mapping[str, Any]) -> str:
    """Returns the model card as Markdown.

    Args:
      config: The model's configuration.
      metrics: The content of the model's metrics.json: what training measured, or under
        ``exported_from`` what training measured for each member; and the evaluations.
    """
    trainings = [one for one in metrics.get("exported_from", [metrics]) if "options" in one]
    parts = [f"# Model card: {metrics['model_id']}", _describe_model(config)]
    if trainings:
        parts += [_training_table(trainings), _training_commands(config, trainings)]
    parts += _evaluation_parts(metrics.get("evaluations", []))
    parts.append(_USE)
    if trainings:
        parts.append(f"## Licence of the training data\n\n{_dataset_licence(trainings[0])}")
    return "\n\n".join(parts) + "\n"


def _describe_model(config: CaptionerConfig) -> str:
    kind = "LSTM captioner"
    if config.members > 1:
        kind = f"{config.members} LSTM captioners whose probabilities are averaged"
    attended = "the grid" if config.attention == "grid" else "the average"
    text = (
        f"{kind}, attending to {attended} of `{config.backbone}` features. "
        f"{config.vocabulary_size} words, {config.units} units, beam width {config.beam_width}, "
        f"length penalty {config.length_penalty}."
    )
    if config.joint_weight:
        text += (
            f" Of the beams, the one is taken whose normalised log-probability and "
            f"{config.joint_weight} times its cosine to the image, in the space of "
            f"`{config.joint_encoder}`, are highest together."
        )
    if config.kinds:
        text += (
            " A caption's confidence was fitted to half of the dev images, and knows "
            f"{config.kinds} kinds of training images."
        )
    return text


def _training_table(trainings: Sequence[Mapping[str, Any]]) -> str:
    images = trainings[0]["images"]
    captions = trainings[0]["captions"]
    best_epochs = (f"{one['best_epoch']} of {len(one['history'])}" for one in trainings)
    dev_losses = (f"{one['history'][one['best_epoch'] - 1]['dev_loss']:.3f}" for one in trainings)
    rows = {
        "trained on": f"{images['train']} images, {captions['train']} captions: split train of "
        f"{_dataset_names(trainings[0])}",
        "chosen on": f"{images['dev']} images: split dev",
        "best epoch": ", ".join(best_epochs),
        "dev loss": f"{', '.join(dev_losses)} nats a word",
        "training time": ", ".join(f"{one['seconds']:.0f} s" for one in trainings),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _training_commands(config: CaptionerConfig, trainings: Sequence[Mapping[str, Any]]) -> str:
    commands = []
    for training in trainings:
        given = given_options(TrainOptions, training["options"])
        options = (f"{name} {shlex.quote(value)}" for name, value in given)
        commands.append(" ".join(["captioner train", *options]))
    if len(trainings) > 1:
        models = " ".join(f"--model {shlex.quote(one['options']['output'])}" for one in trainings)
        search = f"--beam-width {config.beam_width} --length-penalty {config.length_penalty}"
        if config.joint_weight:
            search += f" --joint-weight {config.joint_weight}"
        commands.append(f"captioner export {models} {search} --output MODEL_DIR")
    return "```sh\n" + "\n".join(commands) + "\n```"


def _evaluation_parts(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the scores of each evaluation as a heading and a table; nothing without any."""
    if not evaluations:
        return []
    found = dict.fromkeys(name for one in evaluations for name in one["scores"])
    names = [name for name in dict.fromkeys((*_METRICS, *found)) if name in found]
    has_several = len({one.get("dataset") for one in evaluations}) > 1
    columns = ["dataset"] * has_several + ["split", "images", "beam", *names]
    lines = [_table_row(columns), "|---" * len(columns) + "|"]
    for one in evaluations:
        dataset = posixpath.basename(str(one.get("dataset", "")).rstrip("/"))
        scores = (f"{one['scores'][name]:.3f}" if name in one["scores"] else "" for name in names)
        facts = (one["split"], str(one["images"]), str(one["beam_width"]))
        lines.append(_table_row([dataset] * has_several + [*facts, *scores]))
    method = (
        "Against all human captions of each image, with pycocoevalcap; tokenizer: "
        f"{evaluations[-1]['tokenizer']}."
    )
    return [f"## Measured\n\n{method}", "\n".join(lines)]


def _table_row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _datasets(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what is known of each dataset; earlier versions had a single one."""
    datasets: list[Mapping[str, Any]] = training.get("datasets") or [training.get("dataset", {})]
    return datasets


def _dataset_names(training: Mapping[str, Any]) -> str:
    """Returns the name of each dataset, or its folder where it has no name."""
    folders = training["options"]["dataset"]
    folders = [folders] if isinstance(folders, str) else folders
    names = (
        dataset.get("name") or folder
        for dataset, folder in zip(_datasets(training), folders, strict=True)
    )
    return ", ".join(f"`{name}`" for name in names)


def _dataset_licence(training: Mapping[str, Any]) -> str:
    licences = dict.fromkeys(
        dataset.get("licence") or "The images and captions keep the licence of their dataset."
        for dataset in _datasets(training)
    )
    return "\n\n".join(licences)
