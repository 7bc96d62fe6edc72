"""A folder of models and which of them is the current one.

``MODELS/NAME/`` are model folders, ``MODELS/current.json`` is the pointer: the current model's
name and every change of it, oldest first. A job that is given ``MODELS`` as its model takes the
current one, so that jobs needn't know what the best model is called. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import math
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from captioner_core.captioning.saved_model import CONFIG, METRICS, check_model
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.io import storage
from captioner_core.options import PRETRAINED
from captioner_core.tables import layout

POINTER = layout.CURRENT_MODEL
POINTER_VERSION = 1
PROMOTE, UNDO = "promote", "undo"
CIDER = "CIDEr"

_LOCK = ".current.lock"
_ROUNDING = 1e-9  # 0.8 + 0.05 is more than 0.85


@dataclass(frozen=True)
class Change:
    """One change of the current model.

    Args:
      action: ``promote`` or ``undo``.
      model: name of the model that was the current one from then on.
      model_id: of it.
      previous: name of the model that was the current one until then; None for the first.
      utc: when, ISO 8601.
      cider: of the model on the dev split, as recorded then; None where it was not.
    """

    action: str
    model: str
    model_id: str
    previous: str | None
    utc: str
    cider: float | None


@dataclass(frozen=True)
class Pointer:
    """What ``current.json`` says; without one there is no current model and no history."""

    current: str | None = None
    history: tuple[Change, ...] = ()

    def promoted(self) -> list[Change]:
        """The promotions that still count, oldest first: an undo takes back the last one."""
        return _still_count(self.history)


@dataclass(frozen=True)
class KnownModel:
    """A model folder below a folder of models.

    Args:
      name: of the folder.
      model_id: as its metrics state it; None where they can't be read.
      cider: on the dev split; None where it is not recorded.
    """

    name: str
    model_id: str | None
    cider: float | None


@dataclass(frozen=True)
class Comparison:
    """A gate's two figures.

    Args:
      model: the model that wants to pass.
      current: the current model; None where there is none, or where it is the same one.
      split: on which CIDEr was measured.
      margin: by which the model must be better.
      cider: of the model; None where there was nothing to compare it with.
      current_cider: of the current one; likewise.
    """

    model: str
    current: str | None
    split: str
    margin: float
    cider: float | None = None
    current_cider: float | None = None

    @property
    def passed(self) -> bool:
        if self.cider is None or self.current_cider is None:
            return True
        return self.cider - self.current_cider - self.margin >= -_ROUNDING

    def line(self) -> str:
        """As a person reads it."""
        if self.cider is None or self.current_cider is None:
            return f"{self.model!r} passes: no other model is current"
        figures = f"{self.split} CIDEr {self.cider:.4f} of {self.model!r}, {self.current_cider:.4f} of the current "
        figures += f"{self.current!r}, margin {self.margin:g}"
        return (
            f"{self.model!r} passes: {figures}"
            if self.passed
            else f"{figures}: {self.current!r} stays current"
        )


def read_pointer(models: str) -> Pointer:
    """The pointer of a folder of models.

    Raises:
      CaptionerError: there is no such folder, or the pointer is damaged.
    """
    _check_folder(models)
    uri = layout.join(models, POINTER)
    try:
        with _one_line(uri):
            return _parsed(storage.read_json(uri)) if storage.exists(uri) else Pointer()
    except CaptionerError:
        raise
    except (ValueError, RecursionError) as error:
        raise CaptionerError(
            f"{uri!r} is damaged ({storage.first_line(error)}); restore it, or delete it and promote a model again"
        ) from error


def current_model(models: str) -> str | None:
    """The name of the current model; None where none was promoted.

    Raises:
      CaptionerError: there is no such folder, or its pointer is damaged.
    """
    return read_pointer(models).current


def resolve_model(uri: str) -> str:
    """The model folder that is meant where a model is asked for.

    A folder with a pointer stands for its current model. ``pretrained``, a model folder and what is
    not there stay as they are. A job resolves once, before its work, and goes on with what it got:
    a promotion in the meantime then changes nothing under it.

    Raises:
      CaptionerError: the pointer is damaged, points nowhere, or points out of its folder.
    """
    if uri == PRETRAINED:
        return uri
    with _one_line(uri):
        if storage.exists(layout.join(uri, CONFIG)) or not storage.exists(
            layout.join(uri, POINTER)
        ):
            return uri
    current = current_model(uri)
    if current is None:
        raise CaptionerError(
            f"folder of models {uri!r} has no current model; choose one with 'captioner promote'"
        )
    return _model_folder(uri, current)


def promote(models: str, name: str) -> bool:
    """Makes a model the current one; nothing changes where it is that already.

    Args:
      models: folder of models, local or remote.
      name: of a model folder directly below it.

    Returns:
      Whether anything changed.

    Raises:
      CaptionerError: no such folder, no whole model in it, or a damaged pointer.
    """
    _check_folder(models)
    folder = _model_folder(models, name)
    model_id = check_model(folder)
    with _locked(models):
        pointer = read_pointer(models)
        # the same name with other weights is another model
        if pointer.current == name and pointer.history[-1].model_id == model_id:
            return False
        _write(models, pointer, _change(PROMOTE, folder, name, model_id, pointer.current))
    return True


def undo(models: str) -> str:
    """Goes back to the model that was current before the last promotion that still counts.

    Returns:
      The name of the model that is current now.

    Raises:
      CaptionerError: nothing to undo, or the model before is no longer there as it was.
    """
    _check_folder(models)
    with _locked(models):
        pointer = read_pointer(models)
        promoted = pointer.promoted()
        if len(promoted) < 2:
            known = f"{promoted[0].model!r} is the first model" if promoted else "no model was"
            raise CaptionerError(
                f"nothing to undo in {models!r}: {known} promoted; promote another"
            )
        before = promoted[-2]
        folder = _model_folder(models, before.model)
        model_id = check_model(folder)
        if model_id != before.model_id:
            raise CaptionerError(
                f"model {before.model!r} was {before.model_id!r} when it was promoted and is {model_id!r} now; "
                "promote the model that you want"
            )
        _write(models, pointer, _change(UNDO, folder, before.model, model_id, pointer.current))
        return before.model


def list_models(models: str) -> list[KnownModel]:
    """The model folders of a folder of models, by name.

    Raises:
      CaptionerError: there is no such folder.
    """
    _check_folder(models)
    with _one_line(models):
        file_system, path = storage.resolve(models)
        found = file_system.get_file_info(pafs.FileSelector(path))
    # what starts with a dot is a folder that is being written
    names = sorted(item.base_name for item in found if item.type == pafs.FileType.Directory)
    folders = {name: layout.join(models, name) for name in names if name[0] not in "._"}
    return [
        _known(name, uri)
        for name, uri in folders.items()
        if storage.exists(layout.join(uri, CONFIG))
    ]


def model_name(models: str, model: str) -> str:
    """The name of a model that is given by its name or as a folder.

    Raises:
      CaptionerError: it is a folder that does not lie directly below the folder of models.
    """
    parent, is_path, name = model.rstrip("/").rpartition("/")
    if not is_path:
        return name
    with _one_line(model):
        same = _place(parent or "/") == _place(models)
    if not same:
        raise CaptionerError(
            f"model folder {model!r} does not lie directly below {models!r}; move or copy it there"
        )
    return name


def compare(models: str, model: str, split: str, margin: float) -> Comparison:
    """A model's CIDEr beside that of the current one, as ``captioner evaluate`` recorded both.

    Figures compare where they are of the same references, and of each model's own beam width or of
    one and the same.

    Args:
      models: folder of models.
      model: name of one of them, or any model folder.
      split: of the dataset.
      margin: by which the model must be better to pass; see ``Comparison``.

    Raises:
      CaptionerError: a model or its figures are missing, or they are of different references.
    """
    current = current_model(models)
    folder = model.rstrip("/")
    folder = folder if "/" in folder else _model_folder(models, folder)
    figures = _recorded(folder, split)
    if current is None:
        return Comparison(model, None, split, margin)
    current_folder = _model_folder(models, current)
    with _one_line(folder):
        same = _place(folder) == _place(current_folder)
    if same:  # a gate that is passed again after its model was promoted
        return Comparison(model, None, split, margin)
    known = [one for one in figures if one.references]
    current_known = [one for one in _recorded(current_folder, split) if one.references]
    remedy = f"evaluate {model!r} and {current!r} on the same dataset with 'captioner evaluate'"
    for name, has in ((model, known), (current, current_known)):
        if not has:
            raise CaptionerError(
                f"model {name!r} has no {split} CIDEr with known references in {METRICS}; {remedy}"
            )
    pairs = [(one, other) for one in known for other in current_known if one.compares_with(other)]
    if not pairs:
        raise CaptionerError(
            f"the {split} figures of {model!r} and {current!r} are of different references or beam widths; {remedy}"
        )
    # of those at the models' own beam widths, with which they caption unless told otherwise, the latest
    one, other = max(
        enumerate(pairs), key=lambda item: (item[1][0].own_width and item[1][1].own_width, item[0])
    )[1]
    return Comparison(model, current, split, margin, one.cider, other.cider)


def gate(models: str, model: str, split: str = "dev", margin: float = 0.0) -> Comparison:
    """Lets a model pass that is good enough to become the current one; see ``compare``.

    Raises:
      CheckFailed: it is not.
      CaptionerError: it can't be told.
    """
    comparison = compare(models, model, split, margin)
    if not comparison.passed:
        raise CheckFailed(f"gate not passed: {comparison.line()}")
    return comparison


@dataclass(frozen=True)
class _Figure:
    """A CIDEr that ``captioner evaluate`` recorded.

    Args:
      references: fingerprint of what it was measured against; None in records without one.
      beam_width: of the search.
      own_width: whether that is the model's own.
      cider: the figure.
    """

    references: str | None
    beam_width: object
    own_width: bool
    cider: float

    def compares_with(self, other: _Figure) -> bool:
        own = self.own_width and other.own_width
        return self.references == other.references and (own or self.beam_width == other.beam_width)


def _recorded(folder: str, split: str) -> list[_Figure]:
    """What is recorded of a split, the latest last.

    Raises:
      CaptionerError: it is no model folder.
    """
    config, metrics = _json_object(folder, CONFIG), _json_object(folder, METRICS)
    listed = metrics.get("evaluations")
    found = []
    for one in listed if isinstance(listed, list) else ():
        if (
            not isinstance(one, dict)
            or one.get("split") != split
            or one.get("model_id") != metrics.get("model_id")
        ):
            continue
        scores, references, width = one.get("scores"), one.get("references"), one.get("beam_width")
        cider = _finite(scores.get(CIDER)) if isinstance(scores, dict) else None
        if cider is not None:
            known = references if isinstance(references, str) else None
            found.append(_Figure(known, width, width == config.get("beam_width"), cider))
    return found


def _dev_cider(folder: str) -> float | None:
    """The latest that is recorded, at the model's own beam width where there is one."""
    figures = _recorded(folder, "dev")
    return ([one for one in figures if one.own_width] or figures)[-1].cider if figures else None


def _finite(value: object) -> float | None:
    is_number = (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
    return float(value) if is_number else None  # type: ignore[arg-type]


def _known(name: str, uri: str) -> KnownModel:
    try:
        model_id = _json_object(uri, METRICS).get("model_id")
        return KnownModel(name, model_id if isinstance(model_id, str) else None, _dev_cider(uri))
    except CaptionerError:  # a folder that is no whole model is listed, so that somebody sees it
        return KnownModel(name, None, None)


def _json_object(folder: str, name: str) -> dict[str, Any]:
    uri = layout.join(folder, name)
    try:
        value = storage.read_json(uri)
    except FileNotFoundError as error:
        raise CaptionerError(
            f"model folder {folder!r} has no {name}; name a folder made by captioner train"
        ) from error
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{uri!r} can't be read ({storage.first_line(error)}); copy the model again"
        ) from error
    if not isinstance(value, dict):
        raise CaptionerError(f"{uri!r} is not a JSON object; copy the model again")
    return value


def _check_folder(models: str) -> None:
    with _one_line(models):
        file_system, path = storage.resolve(models)
        there = file_system.get_file_info(path).type == pafs.FileType.Directory
    if not there:
        raise CaptionerError(
            f"folder of models {models!r} is not a folder; name one that holds model folders"
        )


def _model_folder(models: str, name: str) -> str:
    """Where a model lies; nothing that a pointer or a user says leads out of the folder of models.

    Raises:
      CaptionerError: the name is no plain name, or it is a link that leads elsewhere.
    """
    if not layout.is_run_id(name):
        raise CaptionerError(
            f"model {name!r} must be the name of a folder directly below {models!r}: letters, digits, '.', '_' and "
            "'-', a letter or digit first; rename or move it"
        )
    uri = layout.join(models, name)
    if posixpath.dirname(_place(uri)) != _place(models):
        raise CaptionerError(
            f"model {name!r} in {models!r} is a link that leaves the folder; copy the model there"
        )
    return uri


def _place(uri: str) -> str:
    """Of a local folder where it really is, of another its path."""
    file_system, path = storage.resolve(uri)
    return (
        os.path.realpath(path)
        if isinstance(file_system, pafs.LocalFileSystem)
        else path.rstrip("/")
    )


@contextlib.contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """What a file system says becomes a line for the user."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"{uri!r} can't be read ({storage.first_line(error)}); check address and credentials"
        ) from error


@contextlib.contextmanager
def _locked(models: str) -> Iterator[None]:
    """Keeps other processes of this machine, or of a network file system's, from changing the pointer meanwhile.

    Object stores have no locks; there of two changes at the same moment the later one stands.
    """
    file_system, path = storage.resolve(models)
    if not isinstance(file_system, pafs.LocalFileSystem):
        yield
        return
    # a file of its own, which stays: a lock on the pointer would be on the file that is about to be replaced
    try:
        flags = (
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        )  # no file is made behind a link
        descriptor = os.open(os.path.join(path, _LOCK), flags, 0o666)
    except OSError as error:
        raise CaptionerError(
            f"folder of models {models!r} can't be written to ({error.strerror}); mend its permissions"
        ) from error
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_EX
        )  # gone with the descriptor, however this process ends
        yield
    finally:
        os.close(descriptor)


def _change(action: str, folder: str, name: str, model_id: str, previous: str | None) -> Change:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Change(action, name, model_id, previous, now, _dev_cider(folder))


def _write(models: str, pointer: Pointer, change: Change) -> None:
    uri = layout.join(models, POINTER)
    history = [*pointer.history, change]
    value = {
        "schema_version": POINTER_VERSION,
        "current": change.model,
        "history": [dataclasses.asdict(one) for one in history],
    }
    file_system, path = storage.resolve(uri)
    if isinstance(file_system, pafs.LocalFileSystem) and os.path.islink(path):
        raise CaptionerError(
            f"{uri!r} is a link, and captioner writes through none; put the file itself there"
        )
    try:
        if isinstance(file_system, pafs.LocalFileSystem):
            storage.write_json(uri, value)
            return
        # an object appears as a whole once it is written, which a rename there, a copy, would not improve
        with file_system.open_output_stream(path) as stream:
            stream.write(
                (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
                    "utf-8"
                )
            )
    except OSError as error:
        raise CaptionerError(
            f"{uri!r} can't be written ({storage.first_line(error)}); mend its permissions, nothing was changed"
        ) from error


_FIELDS = tuple(field.name for field in dataclasses.fields(Change))


def _parsed(value: object) -> Pointer:
    """The pointer that a JSON value is.

    Raises:
      ValueError: it is none; says why.
    """
    if not isinstance(value, dict) or value.get("schema_version") != POINTER_VERSION:
        raise ValueError(f"it is not of schema_version {POINTER_VERSION}")
    if value.keys() != {"schema_version", "current", "history"} or not isinstance(
        value["history"], list
    ):
        raise ValueError("it must hold schema_version, current and history alone")
    history = tuple(_parsed_change(number, one) for number, one in enumerate(value["history"]))
    _still_count(history)
    current = history[-1].model if history else None
    if value["current"] != current:
        raise ValueError(f"current is {value['current']!r}, the history ends with {current!r}")
    return Pointer(current, history)


def _parsed_change(number: int, value: object) -> Change:
    if not isinstance(value, dict) or value.keys() != set(_FIELDS):
        raise ValueError(f"history[{number}] must hold {', '.join(_FIELDS)} alone")
    change = Change(**value)
    names = (change.model,) if change.previous is None else (change.model, change.previous)
    good = (
        change.action in (PROMOTE, UNDO)
        and all(isinstance(name, str) and layout.is_run_id(name) for name in names)
        and all(isinstance(text, str) for text in (change.model_id, change.utc))
        and (change.cider is None or _finite(change.cider) is not None)
    )
    if not good:
        raise ValueError(f"history[{number}] has a wrong value")
    return change


def _still_count(history: Iterable[Change]) -> list[Change]:
    """The promotions that no undo took back, oldest first.

    Raises:
      ValueError: a change doesn't start where the one before it ended, or an undo doesn't go back.
    """
    counting: list[Change] = []
    current = None
    for number, change in enumerate(history):
        if change.previous != current:
            raise ValueError(f"history[{number}] does not go on from {current!r}")
        if change.action == PROMOTE:
            counting.append(change)
        else:
            counting = counting[:-1]
            if not counting or counting[-1].model != change.model:
                raise ValueError(f"history[{number}] does not undo the one that it should")
        current = change.model
    return counting
