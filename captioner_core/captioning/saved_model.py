"""A model as a folder of plain data: the weights in .npz, the rest in JSON and Markdown.

Nothing in the folder is unpickled or executed. A folder may come from a stranger, so no file is
read beyond a limit. The number of weights is compared with the configuration before the network is
built, and their names, shapes and types before a tensor is decompressed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.model_card import model_card
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import outputs, storage
from captioner_core.io.json_text import JsonObject, parse_json
from captioner_core.io.tensors import MAX_TENSOR_BYTES, StoredTensors
from captioner_core.options import PRETRAINED
from captioner_core.security.uris import local_path_of
from captioner_core.tables import layout
from captioner_core.text.vocabulary import Vocabulary

if TYPE_CHECKING:  # These modules load TensorFlow, which most functions here do not need.
    from captioner_core.captioning.ensemble import Ensemble
    from captioner_core.captioning.network import Captioner

WEIGHTS = "weights.npz"
VOCABULARY = "vocabulary.json"
CONFIG = "config.json"
METRICS = "metrics.json"
MODEL_CARD = "MODEL_CARD.md"
FILES = (WEIGHTS, VOCABULARY, METRICS, MODEL_CARD, CONFIG)
KIND = "model"
_find_earlier_files = functools.partial(
    outputs.earlier_files, files=FILES, described_by=METRICS, keys=("model_id",)
)
MAX_BYTES = {
    CONFIG: 1 << 16,
    VOCABULARY: 1 << 24,
    METRICS: 1 << 26,
    WEIGHTS: MAX_TENSOR_BYTES + (1 << 24),
}


@dataclass(frozen=True)
class LoadedModel:
    """A captioner that is ready for use.

    Args:
      captioner: The network with its weights.
      vocabulary: The words that the network writes.
      model_id: The name of the weights, the vocabulary and the configuration together.
    """

    captioner: Captioner | Ensemble
    vocabulary: Vocabulary
    model_id: str

    @property
    def config(self) -> CaptionerConfig:
        """The configuration of the captioner."""
        return self.captioner.config


def load_model(folder: str) -> LoadedModel:
    """Returns the model in a folder.

    Args:
      folder: A local path, a URI, or ``pretrained``.

    Raises:
      CaptionerError: A file is missing or damaged, or the weights, the vocabulary and the
        configuration do not fit each other.
    """
    from captioner_core.captioning.ensemble import make_captioner

    path = model_path(folder)
    config, vocabulary = _read_local_model(folder, path)
    captioner = make_captioner(config)
    _load_weights(captioner, path / WEIGHTS, folder)
    return LoadedModel(captioner, vocabulary, compute_model_id(path))


def read_model_id(folder: str) -> str:
    """Returns the id of the model in a folder, without loading TensorFlow.

    >>> read_model_id("pretrained")[:5]
    'lstm-'

    Args:
      folder: A local path, a URI, or ``pretrained``.

    Raises:
      CaptionerError: A file is missing or damaged.
    """
    path = model_path(folder)
    _read_local_model(folder, path)
    with _reading_weights(folder):
        return compute_model_id(path)


def check_model(folder: str) -> str:
    """Checks that the files of a model are whole, and returns the model id.

    TensorFlow is not needed, because no network is built: weights whose id agrees with the
    recorded one are those that training wrote, and so fit the network.

    Args:
      folder: A local path or a URI.

    Raises:
      CaptionerError: A file is missing or damaged, or the metrics belong to another model.
    """
    files = {name: _read_file(folder, name) for name in (WEIGHTS, VOCABULARY, CONFIG, METRICS)}
    config, _ = _parse_config_and_vocabulary(folder, files[CONFIG], files[VOCABULARY])
    _check_weight_count(folder, config, io.BytesIO(files[WEIGHTS]))
    with _reading_weights(folder):
        model_id = _hash_model(files[CONFIG], files[VOCABULARY], io.BytesIO(files[WEIGHTS]))
    try:
        recorded_id = parse_json(files[METRICS])["model_id"]
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
        recorded_id = json.loads((path / METRICS).read_text(encoding="utf-8"))["model_id"]
        is_whole = compute_model_id(path) == recorded_id
    except Exception:  # See _reading_weights.
        is_whole = False
    if not is_whole:
        raise CaptionerError(
            f"the package's own model in {str(path)!r} is missing or damaged; install captioner "
            "again"
        )
    return path, recorded_id


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


def compute_model_id(folder: Path) -> str:
    """Returns the id that the files of a local model folder have together."""
    with (folder / WEIGHTS).open("rb") as weights:
        config = (folder / CONFIG).read_bytes()
        return _hash_model(config, (folder / VOCABULARY).read_bytes(), weights)


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
    np.savez(output.stage(WEIGHTS), allow_pickle=False, **tensors)
    output.stage(VOCABULARY).write_text(vocabulary.to_json(), encoding="utf-8")
    write_json(output.stage(CONFIG), captioner.config.to_json())
    model_id = compute_model_id(output.staging_folder)
    publish_model(output, captioner.config, {"model_id": model_id, **metrics})
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
    copy.mkdir()
    for name in (WEIGHTS, VOCABULARY, CONFIG, METRICS):
        (copy / name).write_bytes(_read_file(folder, name))
    return copy


def _read_local_model(folder: str, path: Path) -> tuple[CaptionerConfig, Vocabulary]:
    """Returns the configuration and vocabulary of a local model; its weights fit their number."""
    for name in (WEIGHTS, VOCABULARY, CONFIG):
        if not (path / name).is_file():
            raise _missing_file(folder, name)
    config, vocabulary = _parse_config_and_vocabulary(
        folder,
        _read_limited(folder, CONFIG, (path / CONFIG).open("rb")),
        _read_limited(folder, VOCABULARY, (path / VOCABULARY).open("rb")),
    )
    _check_weight_count(folder, config, path / WEIGHTS)
    return config, vocabulary


def _read_file(folder: str, name: str) -> bytes:
    """Returns the content of a file of a model, local or at a URI."""
    try:
        file_system, path = storage.resolve(layout.join(folder, name))
        return _read_limited(folder, name, file_system.open_input_stream(path))
    except CaptionerError:
        raise
    except FileNotFoundError as error:
        raise _missing_file(folder, name) from error
    except (OSError, ValueError) as error:  # ValueError: pyarrow does not know the file system.
        raise _error(
            folder,
            f"{name} can't be read ({first_line(error)}); mend its permissions or copy it again",
        ) from error


def _read_limited(folder: str, name: str, stream: Any) -> bytes:
    """Returns the content of a file of a model, unless it exceeds its limit; closes the stream."""
    with stream:
        data = bytes(stream.read(MAX_BYTES[name] + 1))
    if len(data) > MAX_BYTES[name]:
        raise _error(
            folder, f"{name} holds more than {MAX_BYTES[name]} bytes; train the model again"
        )
    return data


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


def _hash_model(config: bytes, vocabulary: bytes, weights: IO[bytes]) -> str:
    digest = hashlib.sha256(config)
    digest.update(vocabulary)
    # The tensors are hashed and not the archive, because the archive's own bytes contain dates.
    with StoredTensors(weights) as tensors:
        for name in sorted(tensors.shapes):
            digest.update(name.encode("utf-8"))
            for chunk in tensors.chunks(name):
                digest.update(chunk)
    return f"lstm-{digest.hexdigest()[:16]}"


def _check_weight_count(folder: str, config: CaptionerConfig, weights: Path | IO[bytes]) -> None:
    """Refuses weights whose number does not fit the sizes, before any of them is read."""
    with _reading_weights(folder), StoredTensors(weights) as tensors:
        stored = sum(map(math.prod, tensors.shapes.values()))
    if stored != config.parameter_count:
        raise _error(
            folder,
            f"{WEIGHTS} holds {stored} numbers where {CONFIG} asks for "
            f"{config.parameter_count}; take all files from one training",
        )


def _load_weights(captioner: Captioner | Ensemble, weights: Path, folder: str) -> None:
    """Assigns the stored weights to a network, after checking names, shapes and values."""
    wanted = captioner.named_weights()
    with _reading_weights(folder), StoredTensors(weights) as stored:
        _check_shapes(folder, stored.shapes, wanted)
        for name, weight in wanted.items():
            tensor = stored.read(name)
            if not np.isfinite(tensor).all():
                raise _error(
                    folder, f"tensor {name!r} holds values that are not finite; train it again"
                )
            weight.assign(tensor.astype(np.float32))


def _check_shapes(
    folder: str, stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Any]
) -> None:
    """Refuses stored tensors whose names or shapes differ from those of the network's weights."""
    for name in sorted(set(wanted) ^ set(stored)):
        raise _error(folder, f"{WEIGHTS} and {CONFIG} disagree on {name!r}; train it again")
    for name, weight in wanted.items():
        shape = tuple(weight.shape)
        if stored[name] != shape:
            raise _error(
                folder, f"tensor {name!r} is {stored[name]} where {shape} is needed; train it again"
            )


@contextlib.contextmanager
def _reading_weights(folder: str) -> Iterator[None]:
    """Turns every error that damaged weights cause into one that names the model folder."""
    try:
        yield
    except CaptionerError:
        raise
    # zipfile, zlib and NumPy's parser raise errors of many types when a file is damaged.
    except Exception as error:
        raise _error(
            folder, f"{WEIGHTS} is damaged ({first_line(error)}); train or copy it again"
        ) from error


def _missing_file(folder: str, name: str) -> CaptionerError:
    return CaptionerError(f"model folder {folder!r} has no {name}; make one with 'captioner train'")


def _error(folder: str, message: str) -> CaptionerError:
    return CaptionerError(f"model folder {folder!r}: {message}")
