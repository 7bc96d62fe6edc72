"""A model as a folder of plain data: tensors in .npz, the rest in JSON and Markdown.

Nothing in it is pickled and nothing of it is executed. A folder may be a stranger's: no file is
read beyond a limit, and every tensor must have the name, shape and type that the configuration
asks for, which is known before one is inflated or the network is built.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.model_card import model_card
from captioner_core.errors import CaptionerError
from captioner_core.io import outputs, storage
from captioner_core.io.json_text import parse_json
from captioner_core.io.tensors import MAX_TENSOR_BYTES, StoredTensors
from captioner_core.options import PRETRAINED
from captioner_core.security.uris import local_path_of
from captioner_core.tables import layout
from captioner_core.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner_core.captioning.ensemble import Ensemble
    from captioner_core.captioning.network import Captioner

WEIGHTS = "weights.npz"
VOCABULARY = "vocabulary.json"
CONFIG = "config.json"
METRICS = "metrics.json"
MODEL_CARD = "MODEL_CARD.md"
FILES = (WEIGHTS, VOCABULARY, METRICS, MODEL_CARD, CONFIG)
KIND = "model"
MAX_BYTES = {
    CONFIG: 1 << 16,
    VOCABULARY: 1 << 24,
    METRICS: 1 << 26,
    WEIGHTS: MAX_TENSOR_BYTES + (1 << 24),
}


@dataclass(frozen=True)
class LoadedModel:
    """A captioner ready for use; ``model_id`` names its weights, words and sizes."""

    captioner: Captioner | Ensemble
    vocabulary: Vocabulary
    model_id: str

    @property
    def config(self) -> CaptionerConfig:
        return self.captioner.config


def check_model_output(
    folder: str | os.PathLike[str],
    *,
    option: str = "--output",
    inputs: outputs.Inputs | None = None,
) -> None:
    """Refuses, before any work, a folder in which no model may be written; changes nothing.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        folder, kind=KIND, option=option, inputs=inputs, adopt=_earlier_model
    )


def claim_model_folder(folder: str | os.PathLike[str]) -> outputs.OutputFolder:
    """Returns a model folder to write to.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    return outputs.OutputFolder.claim(
        folder, kind=KIND, option="model folder", adopt=_earlier_model
    )


def _earlier_model(folder: Path) -> set[str] | None:
    """Returns the files of a model that a version without markers made; None for any other folder."""
    return set(FILES) if is_earlier_folder(folder, FILES, METRICS, ("model_id",)) else None


def is_earlier_folder(
    folder: Path, files: Sequence[str], described_by: str, keys: Sequence[str]
) -> bool:
    """Returns whether a folder holds exactly the files that an earlier version wrote.

    Args:
      folder: to look at.
      files: the names that it must hold, as regular files, and no others.
      described_by: the one of them that is a JSON object.
      keys: that the object must have.
    """
    if sorted(os.listdir(folder)) != sorted(files):
        return False
    if not all((folder / name).is_file() and not (folder / name).is_symlink() for name in files):
        return False
    described = outputs.parse_object((folder / described_by).read_bytes())
    return described is not None and all(key in described for key in keys)


def save_model(folder: str, captioner: Captioner, vocabulary: Vocabulary, metrics: Any) -> str:
    """Writes a model folder whole or not at all, replacing a model that is there.

    A process that is killed meanwhile leaves the old model, or a folder without config.json, which is
    no model.

    Args:
      folder: where to; a local path.
      captioner: the network.
      vocabulary: its words.
      metrics: what training measured, as JSON.

    Returns:
      The model id.

    Raises:
      CaptionerError: the folder holds files that captioner did not make.
    """
    tensors = {
        name: np.asarray(weight.numpy(), np.float32)
        for name, weight in captioner.named_weights().items()
    }
    output = claim_model_folder(folder)
    np.savez(output.stage(WEIGHTS), allow_pickle=False, **tensors)
    output.stage(VOCABULARY).write_text(vocabulary.to_json(), encoding="utf-8")
    _write_json(output.stage(CONFIG), captioner.config.to_json())
    model_id = _model_id(output.staging_folder)
    _finish_model(output, {"model_id": model_id, **metrics})
    return model_id


def _finish_model(output: outputs.OutputFolder, metrics: Mapping[str, Any]) -> None:
    """Adds metrics and card to the staged files, and puts all in place."""
    _write_json(output.stage(METRICS), metrics)
    output.stage(MODEL_CARD).write_text(_card(output.staging_folder), encoding="utf-8")
    output.publish(FILES, completion_file=CONFIG)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _card(folder: Path) -> str:
    """Returns the model card that the folder's other files ask for."""
    config = CaptionerConfig.from_json(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    return model_card(config, json.loads((folder / METRICS).read_text(encoding="utf-8")))


def record_metrics(folder: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Changes a model's metrics, and writes its card anew from them.

    Args:
      folder: of the model.
      change: makes the new content of metrics.json of the old one, which is empty where there is none.

    Raises:
      CaptionerError: captioner did not make the folder, or it cannot be written to, or metrics.json is damaged.
    """
    output = claim_model_folder(folder)
    path = output.path / METRICS
    metrics = outputs.parse_object(path.read_bytes()) if path.exists() else {}
    if metrics is None:
        raise CaptionerError(
            f"model folder {folder!r}: {METRICS} is damaged; train the model or copy its folder again"
        )
    output.check_no_conflicts((METRICS, MODEL_CARD))
    metrics = change(metrics)
    _write_json(output.stage(METRICS), metrics)
    config = CaptionerConfig.from_json(
        json.loads((output.path / CONFIG).read_text(encoding="utf-8"))
    )
    output.stage(MODEL_CARD).write_text(model_card(config, metrics), encoding="utf-8")
    output.publish_file(METRICS)
    output.publish_file(MODEL_CARD)
    output.finish()


def load_model(folder: str) -> LoadedModel:
    """Reads a model folder.

    Raises:
      CaptionerError: a file is missing or damaged, or weights, words and sizes don't fit.
    """
    from captioner_core.captioning.ensemble import make_captioner

    path = model_path(folder)
    config, vocabulary = _config_and_words(folder, path)
    captioner = make_captioner(config)
    _fill(captioner, path / WEIGHTS, folder)
    return LoadedModel(captioner, vocabulary, _model_id(path))


def model_id_of(folder: str) -> str:
    """The id of the model in a local folder, told without TensorFlow.

    Raises:
      CaptionerError: a file is missing or damaged.
    """
    path = model_path(folder)
    _config_and_words(folder, path)
    try:
        return _model_id(path)
    except Exception as error:  # see _fill
        raise _damaged(folder, error) from error


def _config_and_words(folder: str, path: Path) -> tuple[CaptionerConfig, Vocabulary]:
    for name in (WEIGHTS, VOCABULARY, CONFIG):
        if not (path / name).is_file():
            raise CaptionerError(
                f"model folder {folder!r} has no {name}; make one with 'captioner train'"
            )
    config, vocabulary = _sizes_and_words(
        folder, *(_limited(folder, name, (path / name).open("rb")) for name in (CONFIG, VOCABULARY))
    )
    _check_weights(folder, config, path / WEIGHTS)
    return config, vocabulary


def _limited(folder: str, name: str, stream: Any) -> bytes:
    """The bytes of a model's file, unless they are more than such a file has; closes the stream."""
    with stream:
        data = bytes(stream.read(MAX_BYTES[name] + 1))
    if len(data) > MAX_BYTES[name]:
        raise CaptionerError(
            f"model folder {folder!r}: {name} holds more than {MAX_BYTES[name]} bytes; train the model again"
        )
    return data


def _check_weights(folder: str, config: CaptionerConfig, weights: Path | IO[bytes]) -> None:
    """Refuses weights that are not as many as the sizes need, before they are read or a network is built."""
    try:
        with StoredTensors(weights) as tensors:
            stored = sum(map(math.prod, tensors.shapes.values()))
    except Exception as error:  # see _fill
        raise _damaged(folder, error) from error
    if stored != config.parameters:
        raise CaptionerError(
            f"model folder {folder!r}: {WEIGHTS} holds {stored} numbers where {CONFIG} asks for {config.parameters}; "
            "take all files from one training"
        )


def _damaged(folder: str, error: Exception) -> CaptionerError:
    said = storage.first_line(error)
    return CaptionerError(
        f"model folder {folder!r}: {WEIGHTS} is damaged ({said}); train or copy it again"
    )


def check_model(folder: str) -> str:
    """The id of the model in a folder, once its files are known to be whole.

    No network is built, so this needs no TensorFlow: that the weights are those of which the metrics
    state the id stands for their fitting the sizes.

    Args:
      folder: a local path or a URI.

    Raises:
      CaptionerError: a file is missing or damaged, or the metrics are of another model.
    """
    files = {name: _bytes_of(folder, name) for name in (WEIGHTS, VOCABULARY, CONFIG, METRICS)}
    config, _ = _sizes_and_words(folder, files[CONFIG], files[VOCABULARY])
    _check_weights(folder, config, io.BytesIO(files[WEIGHTS]))
    try:
        model_id = _name(files[CONFIG], files[VOCABULARY], io.BytesIO(files[WEIGHTS]))
    except Exception as error:  # see _fill
        raise _damaged(folder, error) from error
    try:
        made_as = parse_json(files[METRICS])["model_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise CaptionerError(
            f"model folder {folder!r}: {METRICS} names no model_id; train the model or copy its folder again"
        ) from error
    if made_as != model_id:
        raise CaptionerError(
            f"model folder {folder!r}: its files are of model {model_id!r}, {METRICS} is of {made_as!r}; "
            "take all files from one training"
        )
    return model_id


def _bytes_of(folder: str, name: str) -> bytes:
    try:
        file_system, path = storage.resolve(layout.join(folder, name))
        return _limited(folder, name, file_system.open_input_stream(path))
    except CaptionerError:
        raise
    except FileNotFoundError as error:
        raise CaptionerError(
            f"model folder {folder!r} has no {name}; make one with 'captioner train'"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a file system that pyarrow doesn't know
        raise CaptionerError(
            f"model folder {folder!r}: {name} can't be read ({storage.first_line(error)}); mend its permissions or "
            "copy it again"
        ) from error


def _sizes_and_words(
    folder: str, config_json: bytes, vocabulary_json: bytes
) -> tuple[CaptionerConfig, Vocabulary]:
    try:
        config = CaptionerConfig.from_json(parse_json(config_json))
        vocabulary = Vocabulary.from_json(vocabulary_json.decode("utf-8"))
    except CaptionerError as error:
        raise CaptionerError(f"model folder {folder!r}: {error}") from error
    except ValueError as error:  # text that is not UTF-8 or not JSON
        raise CaptionerError(
            f"model folder {folder!r}: {CONFIG} or {VOCABULARY} is damaged ({error}); train or copy it again"
        ) from error
    if len(vocabulary) != config.vocabulary_size:
        raise CaptionerError(
            f"model folder {folder!r}: {len(vocabulary)} words where the weights have {config.vocabulary_size}; "
            "take all files from one training"
        )
    return config, vocabulary


def _fill(captioner: Captioner | Ensemble, weights: Path, folder: str) -> None:
    wanted = captioner.named_weights()
    try:
        with StoredTensors(weights) as stored:
            _check_shapes(
                folder,
                stored.shapes,
                {name: tuple(weight.shape) for name, weight in wanted.items()},
            )
            for name, weight in wanted.items():
                tensor = stored.read(name)
                if not np.isfinite(tensor).all():
                    raise CaptionerError(
                        f"model folder {folder!r}: tensor {name!r} holds values that are not finite; train it again"
                    )
                weight.assign(tensor.astype(np.float32))
    except CaptionerError:
        raise
    except (
        Exception
    ) as error:  # zip, zlib and numpy's parser raise whatever damage makes them stumble over
        raise _damaged(folder, error) from error


def _check_shapes(
    folder: str, stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for name in sorted(set(wanted) ^ set(stored)):
        raise CaptionerError(
            f"model folder {folder!r}: {WEIGHTS} and {CONFIG} disagree on {name!r}; train it again"
        )
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise CaptionerError(
                f"model folder {folder!r}: tensor {name!r} is {stored[name]} where {shape} is needed; train it again"
            )


def _model_id(folder: Path) -> str:
    with (folder / WEIGHTS).open("rb") as weights:
        return _name((folder / CONFIG).read_bytes(), (folder / VOCABULARY).read_bytes(), weights)


def _name(config: bytes, vocabulary: bytes, weights: IO[bytes]) -> str:
    digest = hashlib.sha256(config)
    digest.update(vocabulary)
    with StoredTensors(weights) as tensors:  # the archive's own bytes hold dates
        for name in sorted(tensors.shapes):
            digest.update(name.encode("utf-8"))
            for chunk in tensors.chunks(name):
                digest.update(chunk)
    return f"lstm-{digest.hexdigest()[:16]}"


def check_pretrained() -> tuple[Path, str]:
    """Folder and id of the model that comes with the package.

    Raises:
      CaptionerError: it is not there, or not what it was when it was made.
    """
    path = model_path(PRETRAINED)
    try:
        made_as = json.loads((path / METRICS).read_text(encoding="utf-8"))["model_id"]
        whole = _model_id(path) == made_as
    except Exception:  # see _fill
        whole = False
    if not whole:
        raise CaptionerError(
            f"the package's own model in {str(path)!r} is missing or damaged; install captioner again"
        )
    return path, made_as


def export_model(
    folders: Sequence[str],
    target: str,
    beam_width: int | None = None,
    length_penalty: float | None = None,
    joint_weight: float | None = None,
) -> str:
    """Writes one or several models as one, with weights as float16, which is how a model is shipped.

    Several become an ensemble. Its metrics hold the histories of its members and no evaluation:
    those of the members are not its own.

    Args:
      folders: of models of one configuration and one vocabulary.
      target: folder to make.
      beam_width: of searches with it; that of the first model where None.
      length_penalty: likewise.
      joint_weight: likewise; see ``CaptionerConfig``.

    Returns:
      The new model's id.

    Raises:
      CaptionerError: a folder holds no whole model, they don't fit each other, or the target exists.
    """
    check_model_output(
        target, inputs={"--model": [folder for folder in folders if folder != PRETRAINED]}
    )
    if (Path(target) / CONFIG).exists():
        raise CaptionerError(
            f"--output {target!r} exists and holds a model; name a folder that does not exist"
        )
    loaded = [load_model(folder) for folder in folders]
    for folder, model in zip(folders, loaded, strict=True):
        if (
            model.config != loaded[0].config
            or model.vocabulary != loaded[0].vocabulary
            or model.config.members > 1
        ):
            raise CaptionerError(
                f"model folder {folder!r} has other sizes or words than {folders[0]!r}, or is an ensemble; "
                "join models trained with the same options but the seed"
            )
    first = loaded[0].config
    weight = first.joint_weight if joint_weight is None else joint_weight
    config = dataclasses.replace(
        first,
        members=len(loaded),
        beam_width=first.beam_width if beam_width is None else beam_width,
        length_penalty=first.length_penalty if length_penalty is None else length_penalty,
        joint_weight=weight,
        joint_encoder=_joint_fingerprint(first.backbone) if weight else "",
    )
    tensors = {}
    for number, model in enumerate(loaded):
        for name, weight in model.captioner.named_weights().items():
            tensors[f"{number}/{name}" if len(loaded) > 1 else name] = weight.numpy().astype(
                np.float16
            )
    metrics = [
        json.loads((model_path(folder) / METRICS).read_text(encoding="utf-8")) for folder in folders
    ]
    output = claim_model_folder(target)
    np.savez_compressed(output.stage(WEIGHTS), allow_pickle=False, **tensors)
    shutil.copyfile(model_path(folders[0]) / VOCABULARY, output.stage(VOCABULARY))
    _write_json(output.stage(CONFIG), config.to_json())
    model_id = load_model(str(output.staging_folder)).model_id
    _finish_model(output, {"model_id": model_id, "exported_from": metrics})
    return model_id


def _joint_fingerprint(backbone: str) -> str:
    from captioner_core.text.encoders.learned import LearnedEncoder

    encoder = LearnedEncoder()
    if encoder.backbone != backbone:
        raise CaptionerError(
            f"--joint-weight needs features of {encoder.backbone!r}, the models read {backbone!r}; leave it out"
        )
    return encoder.fingerprint


def model_path(folder: str) -> Path:
    """Where a model lies here; ``pretrained`` is the one that comes with the package.

    Of a model at a URI the files are copied here, once a process.

    Raises:
      CaptionerError: it is elsewhere, and can't be read.
    """
    if folder == PRETRAINED:
        return Path(str(resources.files("captioner_core") / PRETRAINED))
    return _copied(folder) if storage.is_remote(folder) else Path(local_path_of(folder))


@functools.cache
def _copied(folder: str) -> Path:
    kept = Path(storage.scratch_folder(), f"model-{hashlib.sha256(folder.encode()).hexdigest()}")
    kept.mkdir()
    for name in (WEIGHTS, VOCABULARY, CONFIG, METRICS):
        (kept / name).write_bytes(_bytes_of(folder, name))
    return kept
