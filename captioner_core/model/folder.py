"""A model as a folder of plain data: tensors in .npz, the rest in JSON and Markdown.

Nothing in it is pickled and nothing of it is executed: ``numpy.load`` refuses objects,
and every tensor must have the name, shape and type that the configuration asks for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner_core import storage
from captioner_core.errors import CaptionerError
from captioner_core.model.card import model_card
from captioner_core.model.config import CaptionerConfig
from captioner_core.options import PRETRAINED
from captioner_core.text import Vocabulary

if TYPE_CHECKING:
    from captioner_core.model.captioner import Captioner
    from captioner_core.model.ensemble import Ensemble

WEIGHTS = "weights.npz"
VOCABULARY = "vocabulary.json"
CONFIG = "config.json"
METRICS = "metrics.json"
MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class LoadedModel:
    """A captioner ready for use; ``model_id`` names its weights, words and sizes."""

    captioner: Captioner | Ensemble
    vocabulary: Vocabulary
    model_id: str

    @property
    def config(self) -> CaptionerConfig:
        return self.captioner.config


def save_model(folder: str, captioner: Captioner, vocabulary: Vocabulary, metrics: Any) -> str:
    """Writes a model folder whole or not at all, replacing one that is there.

    Args:
      folder: where to; a local path.
      captioner: the network.
      vocabulary: its words.
      metrics: what training measured, as JSON.

    Returns:
      The model id.
    """
    tensors = {name: np.asarray(weight.numpy(), np.float32) for name, weight in captioner.named_weights().items()}
    with storage.whole_folder(folder) as made:
        np.savez(made / WEIGHTS, allow_pickle=False, **tensors)
        (made / VOCABULARY).write_text(vocabulary.to_json(), encoding="utf-8")
        (made / CONFIG).write_text(json.dumps(captioner.config.to_json(), indent=2) + "\n", encoding="utf-8")
        model_id = _model_id(made)
        (made / METRICS).write_text(json.dumps({"model_id": model_id, **metrics}, indent=2) + "\n", encoding="utf-8")
        write_card(str(made))
    return model_id


def write_card(folder: str) -> None:
    """Writes the model card anew from what else the folder holds."""
    path = Path(folder)
    config = CaptionerConfig.from_json(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
    (path / MODEL_CARD).write_text(model_card(config, metrics), encoding="utf-8")


def load_model(folder: str) -> LoadedModel:
    """Reads a model folder.

    Raises:
      CaptionerError: a file is missing or damaged, or weights, words and sizes don't fit.
    """
    from captioner_core.model.ensemble import make_captioner

    path = model_path(folder)
    for name in (WEIGHTS, VOCABULARY, CONFIG):
        if not (path / name).is_file():
            raise CaptionerError(f"model folder {folder!r} has no {name}; make one with 'captioner train'")
    try:
        config = CaptionerConfig.from_json(json.loads((path / CONFIG).read_text(encoding="utf-8")))
        vocabulary = Vocabulary.from_json((path / VOCABULARY).read_text(encoding="utf-8"))
    except ValueError as error:  # CaptionerError, and text that is not UTF-8 or not JSON
        raise CaptionerError(f"model folder {folder!r}: {error}") from error
    if len(vocabulary) != config.vocabulary_size:
        raise CaptionerError(
            f"model folder {folder!r}: {len(vocabulary)} words where the weights have {config.vocabulary_size}; "
            "take all files from one training"
        )
    captioner = make_captioner(config)
    _fill(captioner, path / WEIGHTS, folder)
    return LoadedModel(captioner, vocabulary, _model_id(path))


def _fill(captioner: Captioner | Ensemble, weights: Path, folder: str) -> None:
    wanted = captioner.named_weights()
    try:
        with np.load(weights, allow_pickle=False) as stored:
            tensors = {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, zlib and numpy's parser raise whatever damage makes them stumble over
        raise CaptionerError(
            f"model folder {folder!r}: {WEIGHTS} is damaged ({error}); train or copy it again"
        ) from error
    for name in sorted(set(wanted) ^ set(tensors)):
        raise CaptionerError(f"model folder {folder!r}: {WEIGHTS} and {CONFIG} disagree on {name!r}; train it again")
    for name, tensor in tensors.items():
        is_float = tensor.dtype in (np.float32, np.float16)
        if not is_float or tensor.shape != tuple(wanted[name].shape) or not np.isfinite(tensor).all():
            raise CaptionerError(
                f"model folder {folder!r}: tensor {name!r} is {tensor.dtype} {tensor.shape} where finite float32 or "
                f"float16 {tuple(wanted[name].shape)} is needed; train it again"
            )
    for name, tensor in tensors.items():
        wanted[name].assign(tensor.astype(np.float32))


def _model_id(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, VOCABULARY):
        digest.update((folder / name).read_bytes())
    with np.load(folder / WEIGHTS, allow_pickle=False) as tensors:  # the archive's own bytes hold dates
        for name in sorted(tensors.files):
            digest.update(name.encode("utf-8") + tensors[name].tobytes())
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
        raise CaptionerError(f"the package's own model in {str(path)!r} is missing or damaged; install captioner again")
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
    made = Path(target)
    if made.exists():
        raise CaptionerError(f"{target!r} exists; name a folder that does not")
    loaded = [load_model(folder) for folder in folders]
    for folder, model in zip(folders, loaded, strict=True):
        if model.config != loaded[0].config or model.vocabulary != loaded[0].vocabulary or model.config.members > 1:
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
            tensors[f"{number}/{name}" if len(loaded) > 1 else name] = weight.numpy().astype(np.float16)
    made.mkdir(parents=True)
    np.savez_compressed(made / WEIGHTS, allow_pickle=False, **tensors)
    shutil.copyfile(model_path(folders[0]) / VOCABULARY, made / VOCABULARY)
    (made / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
    model_id = load_model(target).model_id
    metrics = [json.loads((model_path(folder) / METRICS).read_text(encoding="utf-8")) for folder in folders]
    (made / METRICS).write_text(
        json.dumps({"model_id": model_id, "exported_from": metrics}, indent=2) + "\n", encoding="utf-8"
    )
    write_card(target)
    return model_id


def _joint_fingerprint(backbone: str) -> str:
    from captioner_core.text_encoders.learned import Learned

    encoder = Learned()
    if encoder.backbone != backbone:
        raise CaptionerError(
            f"--joint-weight needs features of {encoder.backbone!r}, the models read {backbone!r}; leave it out"
        )
    return encoder.fingerprint


def model_path(folder: str) -> Path:
    """Where a model lies; ``pretrained`` is the one that comes with the package."""
    return Path(str(resources.files("captioner_core") / PRETRAINED)) if folder == PRETRAINED else Path(folder)
