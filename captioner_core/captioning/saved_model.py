"""A model as a folder of plain data: the weights as safetensors, the rest in JSON and Markdown.

Nothing in the folder is unpickled or executed. A folder may come from a stranger, so no file is
read beyond a limit; that of the weights follows from the configuration. The names and
the shapes of the weights must be those that the configuration asks for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pyarrow import fs as pafs
from safetensors import SafetensorError

from captioner_core.captioning.confidence import NAMES as CONFIDENCE_NAMES
from captioner_core.captioning.confidence import ConfidenceModel
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.model_card import model_card
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import outputs, storage
from captioner_core.io.json_text import JsonObject, parse_json
from captioner_core.io.tensors import (
    CONVERT,
    EARLIER_WEIGHTS,
    MAX_HEADER_BYTES,
    WEIGHTS,
    Tensors,
    content,
    format_tensors,
    parse_tensors,
)
from captioner_core.options import PRETRAINED
from captioner_core.security.uris import local_path_of
from captioner_core.tables import layout
from captioner_core.text.vocabulary import Vocabulary

if TYPE_CHECKING:  # This module loads TensorFlow, which no function here needs.
    from captioner_core.captioning.network import Captioner

VOCABULARY = "vocabulary.json"
CONFIG = "config.json"
METRICS = "metrics.json"
MODEL_CARD = "MODEL_CARD.md"
FILES = (WEIGHTS, VOCABULARY, METRICS, MODEL_CARD, CONFIG)
KIND = "model"
MAX_BYTES = {CONFIG: 1 << 16, VOCABULARY: 1 << 24, METRICS: 1 << 26}
_find_earlier_files = functools.partial(
    outputs.earlier_files,
    files=(EARLIER_WEIGHTS, VOCABULARY, METRICS, MODEL_CARD, CONFIG),
    described_by=METRICS,
    keys=("model_id",),
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, read and checked.

    Args:
      config: The configuration of the captioner.
      vocabulary: The words that the captioner writes.
      model_id: The name of the weights, the vocabulary and the configuration together.
      tensors: The weights by name, float16 or float32. They have the names and the shapes that
        the configuration asks for, and only finite values.
    """

    config: CaptionerConfig
    vocabulary: Vocabulary
    model_id: str
    tensors: Tensors


def load_model(folder: str) -> LoadedModel:
    """Returns the model in a folder, without loading TensorFlow.

    ``ensemble.build_captioner`` makes a network of it, and ``search.load_search`` a search.

    Args:
      folder: A local path, a URI, or ``pretrained``.

    Raises:
      CaptionerError: A file is missing or damaged, or the weights, the vocabulary and the
        configuration do not fit each other.
    """
    files = _read_model(folder, str(model_path(folder)))
    _check_tensors(folder, files.tensors, files.config.tensor_shapes())
    return LoadedModel(files.config, files.vocabulary, files.model_id, files.tensors)


def read_model_id(folder: str) -> str:
    """Returns the id of the model in a folder, without loading TensorFlow.

    >>> read_model_id("pretrained")[:5]
    'lstm-'

    Args:
      folder: A local path, a URI, or ``pretrained``.

    Raises:
      CaptionerError: A file is missing or damaged.
    """
    return _read_model(folder, str(model_path(folder))).model_id


def check_model(folder: str) -> str:
    """Checks that the files of a model are whole, and returns the model id.

    TensorFlow is not needed, because no network is built: weights whose id agrees with the
    recorded one are those that training wrote, and so fit the network.

    Args:
      folder: A local path or a URI.

    Raises:
      CaptionerError: A file is missing or damaged, or the metrics belong to another model.
    """
    model_id = _read_model(folder, folder).model_id
    metrics = _read_file(folder, folder, METRICS, MAX_BYTES[METRICS])
    try:
        recorded_id = parse_json(metrics)["model_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise _error(
            folder, f"{METRICS} names no model_id; train the model or copy its folder again"
        ) from error
    if recorded_id != model_id:
        raise _error(
            folder,
            f"its files are of model {model_id!r}, {METRICS} is of "
            f"{recorded_id!r}; take all files from one training",
        )
    return model_id


def check_pretrained() -> tuple[Path, str]:
    """Returns the folder and the id of the packaged model, after checking that it is whole.

    Raises:
      CaptionerError: The model is missing or damaged.
    """
    path = model_path(PRETRAINED)
    try:
        return path, check_model(str(path))
    except CaptionerError as error:
        raise CaptionerError(
            f"the package's own model in {str(path)!r} is missing or damaged; install captioner "
            "again"
        ) from error


def model_path(folder: str) -> Path:
    """Returns the local path of a model folder.

    The files of a model at a URI are copied to this machine, once per process.

    Args:
      folder: A local path, a URI, or ``pretrained`` for the packaged model.

    Raises:
      CaptionerError: The model is at a URI and cannot be read.
    """
    if folder == PRETRAINED:
        return Path(str(resources.files("captioner_core") / PRETRAINED))
    return _copy_remote_model(folder) if storage.is_remote(folder) else Path(local_path_of(folder))


def save_model(folder: str, captioner: Captioner, vocabulary: Vocabulary, metrics: Any) -> str:
    """Writes a whole model folder, replacing a model that is there.

    If the process is killed meanwhile, the old model stays, or the folder has no config.json and
    is therefore not a model.

    Args:
      folder: The local path of the folder.
      captioner: The network.
      vocabulary: The words of the network.
      metrics: What training measured, as a JSON object.

    Returns:
      The model id.

    Raises:
      CaptionerError: The folder holds files that captioner did not make.
    """
    tensors = {
        name: np.asarray(weight.numpy(), np.float32)
        for name, weight in captioner.named_weights().items()
    }
    output = claim_model_folder(folder)
    output.stage(WEIGHTS).write_bytes(format_tensors(tensors))
    output.stage(VOCABULARY).write_text(vocabulary.to_json(), encoding="utf-8")
    write_json(output.stage(CONFIG), captioner.config.to_json())
    model_id = read_model_id(str(output.staging_folder))
    publish_model(output, captioner.config, {"model_id": model_id, **metrics})
    return model_id


def replace_confidence(folder: str, confidence: ConfidenceModel, encoder: str) -> str:
    """Sets the confidence of a model in its folder, which thereby becomes another model.

    Args:
      folder: The local path of the folder.
      confidence: The confidence.
      encoder: The fingerprint of the encoder that it was fitted with.

    Returns:
      The new model id.

    Raises:
      CaptionerError: Captioner did not make the folder, or the folder cannot be written to.
    """
    model = load_model(folder)
    config = dataclasses.replace(model.config, kinds=len(confidence.kinds), joint_encoder=encoder)
    kept = {name: value for name, value in model.tensors.items() if name not in CONFIDENCE_NAMES}
    dtype = next(iter(kept.values())).dtype
    added = {name: value.astype(dtype) for name, value in confidence.tensors().items()}
    metrics = parse_json(_read_file(folder, folder, METRICS, MAX_BYTES[METRICS]))
    output = claim_model_folder(folder)
    output.stage(WEIGHTS).write_bytes(format_tensors(kept | added))
    output.stage(VOCABULARY).write_text(model.vocabulary.to_json(), encoding="utf-8")
    write_json(output.stage(CONFIG), config.to_json())
    model_id = read_model_id(str(output.staging_folder))
    publish_model(output, config, {**metrics, "model_id": model_id})
    return model_id


def record_metrics(folder: str, change: Callable[[JsonObject], JsonObject]) -> None:
    """Changes the metrics of a model, and writes its model card again.

    Args:
      folder: The model folder.
      change: The function that turns the present content of metrics.json into the new content.
        The present content is empty if there is no metrics.json.

    Raises:
      CaptionerError: Captioner did not make the folder, the folder cannot be written to, or
        metrics.json is damaged.
    """
    output = claim_model_folder(folder)
    path = output.path / METRICS
    metrics = outputs.parse_object(path.read_bytes()) if path.exists() else {}
    if metrics is None:
        raise _error(folder, f"{METRICS} is damaged; train the model or copy its folder again")
    output.check_no_conflicts((METRICS, MODEL_CARD))
    metrics = change(metrics)
    config = CaptionerConfig.from_json(
        json.loads((output.path / CONFIG).read_text(encoding="utf-8"))
    )
    write_json(output.stage(METRICS), metrics)
    output.stage(MODEL_CARD).write_text(model_card(config, metrics), encoding="utf-8")
    output.publish_file(METRICS)
    output.publish_file(MODEL_CARD)
    output.finish()


def check_model_output(
    folder: str | os.PathLike[str],
    *,
    option: str = "--output",
    inputs: outputs.Inputs | None = None,
) -> None:
    """Checks, before any work, that a model may be written to a folder; changes nothing.

    Args:
      folder: The folder.
      option: The option that names the folder, for the error message.
      inputs: What the command reads, by option. The folder may not be one of these.

    Raises:
      CaptionerError: See ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        folder, kind=KIND, option=option, inputs=inputs, adopt=_find_earlier_files
    )


def claim_model_folder(folder: str | os.PathLike[str]) -> outputs.OutputFolder:
    """Returns a model folder that is ready to be written to.

    Raises:
      CaptionerError: See ``outputs.check_output_folder``.
    """
    return outputs.OutputFolder.claim(
        folder, kind=KIND, option="model folder", adopt=_find_earlier_files
    )


def publish_model(
    output: outputs.OutputFolder, config: CaptionerConfig, metrics: Mapping[str, Any]
) -> None:
    """Adds metrics and model card to the staged files, and moves all files into place.

    Args:
      output: The claimed folder, with the other files staged.
      config: The configuration of the model.
      metrics: The content of metrics.json, with the model id.
    """
    write_json(output.stage(METRICS), metrics)
    output.stage(MODEL_CARD).write_text(model_card(config, metrics), encoding="utf-8")
    output.publish(FILES, completion_file=CONFIG)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as a JSON file that people can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@functools.cache
def _copy_remote_model(folder: str) -> Path:
    copy = Path(storage.scratch_folder(), f"model-{hashlib.sha256(folder.encode()).hexdigest()}")
    metrics = _read_file(folder, folder, METRICS, MAX_BYTES[METRICS])
    files = {**_read_model(folder, folder).files, METRICS: metrics}
    copy.mkdir()
    for name, data in files.items():
        (copy / name).write_bytes(data)
    return copy


class _ModelFiles(NamedTuple):
    """The files of a model, read and checked.

    Args:
      files: The bytes of configuration, vocabulary and weights by their name.
      config: The configuration.
      vocabulary: The vocabulary.
      tensors: The weights, as many as the configuration asks for.
    """

    files: Mapping[str, bytes]
    config: CaptionerConfig
    vocabulary: Vocabulary
    tensors: Tensors

    @property
    def model_id(self) -> str:
        """The id that the files have together."""
        digest = hashlib.sha256(self.files[CONFIG] + self.files[VOCABULARY])
        # The tensors are hashed and not their file, so that the id does not depend on its format.
        for part in content(self.tensors):
            digest.update(part)
        return f"lstm-{digest.hexdigest()[:16]}"


def _read_model(folder: str, path: str) -> _ModelFiles:
    """Reads and checks the configuration, the vocabulary and the weights of a model.

    Args:
      folder: The folder as the user named it, for messages.
      path: The path or URI to read from.

    Raises:
      CaptionerError: A file is missing, too large or damaged, or the files do not fit each other.
    """
    files = {name: _read_file(folder, path, name, MAX_BYTES[name]) for name in (CONFIG, VOCABULARY)}
    config, vocabulary = _parse_config_and_vocabulary(folder, files[CONFIG], files[VOCABULARY])
    max_bytes = 4 * config.parameter_count + 2 * MAX_HEADER_BYTES
    files[WEIGHTS] = _read_file(folder, path, WEIGHTS, max_bytes)
    try:
        tensors = parse_tensors(files[WEIGHTS])
    except (ValueError, KeyError, SafetensorError) as error:
        raise _error(
            folder, f"{WEIGHTS} is damaged ({first_line(error)}); train or copy it again"
        ) from error
    stored = sum(tensor.size for tensor in tensors.values())
    if stored != config.parameter_count:
        raise _error(
            folder,
            f"{WEIGHTS} holds {stored} numbers where {CONFIG} asks for "
            f"{config.parameter_count}; take all files from one training",
        )
    return _ModelFiles(files, config, vocabulary, tensors)


def _read_file(folder: str, path: str, name: str, max_bytes: int) -> bytes:
    """Returns the content of a file of a model, unless it exceeds its limit.

    Args:
      folder: The folder as the user named it, for messages.
      path: The path or URI of the folder.
      name: The name of the file.
      max_bytes: The largest size of the file.
    """
    try:
        file_system, file = storage.resolve(layout.join(path, name))
        info = file_system.get_file_info(file)
        if info.type != pafs.FileType.File:
            raise _missing_file(folder, path, name)
        if info.size > max_bytes:
            raise _error(folder, f"{name} holds more than {max_bytes} bytes; train the model again")
        with file_system.open_input_stream(file) as stream:
            return bytes(stream.read(info.size))
    except CaptionerError:
        raise
    except (OSError, ValueError) as error:  # ValueError: pyarrow does not know the file system.
        raise _error(
            folder,
            f"{name} can't be read ({first_line(error)}); mend its permissions or copy it again",
        ) from error


def _parse_config_and_vocabulary(
    folder: str, config_json: bytes, vocabulary_json: bytes
) -> tuple[CaptionerConfig, Vocabulary]:
    try:
        config = CaptionerConfig.from_json(parse_json(config_json))
        vocabulary = Vocabulary.from_json(vocabulary_json.decode("utf-8"))
    except CaptionerError as error:
        raise _error(folder, str(error)) from error
    except ValueError as error:  # The text is not UTF-8 or not JSON.
        raise _error(
            folder, f"{CONFIG} or {VOCABULARY} is damaged ({error}); train or copy it again"
        ) from error
    if len(vocabulary) != config.vocabulary_size:
        raise _error(
            folder,
            f"{len(vocabulary)} words where the weights have "
            f"{config.vocabulary_size}; take all files from one training",
        )
    return config, vocabulary


def _check_tensors(folder: str, stored: Tensors, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses tensors with other names or shapes than wanted, or with values that are not finite.

    Args:
      folder: The folder as the user named it, for messages.
      stored: The tensors.
      wanted: The shape of each tensor.
    """
    for name in sorted(set(wanted) ^ set(stored)):
        raise _error(folder, f"{WEIGHTS} and {CONFIG} disagree on {name!r}; train it again")
    for name, shape in wanted.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise _error(
                folder, f"tensor {name!r} is {tensor.shape} where {shape} is needed; train it again"
            )
        if not np.isfinite(tensor).all():
            raise _error(
                folder, f"tensor {name!r} holds values that are not finite; train it again"
            )


def _missing_file(folder: str, path: str, name: str) -> CaptionerError:
    is_earlier = name == WEIGHTS and storage.exists(layout.join(path, EARLIER_WEIGHTS))
    remedy = CONVERT if is_earlier else "make one with 'captioner train'"
    return CaptionerError(f"model folder {folder!r} has no {name}; {remedy}")


def _error(folder: str, message: str) -> CaptionerError:
    return CaptionerError(f"model folder {folder!r}: {message}")
