"""A folder of models, and which of them is the current one.

``MODELS/NAME/`` are model folders. ``MODELS/current.json`` is the pointer: it holds the name of the
current model and every change of it, oldest first. A job whose model is ``MODELS`` uses the current
model, so that jobs need not know what the best model is called. Nothing here needs TensorFlow.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import posixpath
from collections.abc import Iterator, Mapping

from pyarrow import fs as pafs

from captioner_core.captioning.saved_model import CONFIG, METRICS, check_model
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import storage
from captioner_core.models.evaluations import (
    is_finite_number,
    latest_dev_cider,
    one_line_errors,
    read_model_json,
)
from captioner_core.options import PRETRAINED
from captioner_core.tables import layout

POINTER = layout.CURRENT_MODEL
POINTER_VERSION = 1
PROMOTE = "promote"
UNDO = "undo"

_LOCK = ".current.lock"


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of the current model, as ``current.json`` records it.

    Args:
      action: ``promote`` or ``undo``.
      model: Name of the model that this change made the current one.
      model_id: Id of that model.
      previous: Name of the model that was the current one before; None for the first change.
      utc: Time of the change, ISO 8601.
      cider: CIDEr of the model on the dev split as recorded then; None if it was not recorded.
    """

    action: str
    model: str
    model_id: str
    previous: str | None
    utc: str
    cider: float | None


@dataclasses.dataclass(frozen=True)
class Pointer:
    """The content of ``current.json``.

    Args:
      current: Name of the current model; None without one.
      history: Every change of the current model, oldest first.
    """

    current: str | None = None
    history: tuple[Change, ...] = ()

    def active_promotions(self) -> list[Change]:
        """Returns the promotions that no undo has taken back, oldest first.

        Raises:
          ValueError: A change does not start from the model that was current, or an undo does not
            return to the model before.
        """
        promotions: list[Change] = []
        current = None
        for number, change in enumerate(self.history):
            if change.previous != current:
                raise ValueError(f"history[{number}] does not go on from {current!r}")
            if change.action == PROMOTE:
                promotions.append(change)
            else:
                promotions = promotions[:-1]
                if not promotions or promotions[-1].model != change.model:
                    raise ValueError(f"history[{number}] does not undo the one that it should")
            current = change.model
        return promotions


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model in a folder of models.

    Args:
      name: Name of the model folder.
      model_id: Id of the model as its metrics state it; None if they cannot be read.
      cider: CIDEr on the dev split; None if it is not recorded.
    """

    name: str
    model_id: str | None
    cider: float | None


def read_pointer(models: str) -> Pointer:
    """Returns the pointer of a folder of models; an empty pointer if there is no ``current.json``.

    Raises:
      CaptionerError: The folder does not exist, or the pointer is damaged.
    """
    _check_folder(models)
    uri = layout.join(models, POINTER)
    try:
        with one_line_errors(uri):
            return _parse_pointer(storage.read_json(uri)) if storage.exists(uri) else Pointer()
    except CaptionerError:
        raise
    except (ValueError, RecursionError) as error:
        raise CaptionerError(
            f"{uri!r} is damaged ({first_line(error)}); restore it, or delete it and "
            "promote a model again"
        ) from error


def current_model(models: str) -> str | None:
    """Returns the name of the current model; None if no model was promoted.

    Raises:
      CaptionerError: The folder does not exist, or its pointer is damaged.
    """
    return read_pointer(models).current


def resolve_model(uri: str) -> str:
    """Returns the model folder that a ``--model`` option stands for.

    A folder with a pointer stands for its current model. ``pretrained``, a model folder and a path
    that does not exist stand for themselves. A job resolves its model once, before its work, and
    keeps the result, so that a promotion in the meantime changes nothing for it.

    Raises:
      CaptionerError: The pointer is damaged, or it names no model within its folder.
    """
    if uri == PRETRAINED:
        return uri
    with one_line_errors(uri):
        is_model = storage.exists(layout.join(uri, CONFIG))
        if is_model or not storage.exists(layout.join(uri, POINTER)):
            return uri
    current = current_model(uri)
    if current is None:
        raise CaptionerError(
            f"folder of models {uri!r} has no current model; choose one with 'captioner promote'"
        )
    return model_folder(uri, current)


def promote(models: str, name: str) -> bool:
    """Makes a model the current one; changes nothing if it already is.

    Args:
      models: The folder of models, local or remote.
      name: The name of a model folder directly below it.

    Returns:
      Whether anything changed.

    Raises:
      CaptionerError: The folder does not exist, it holds no whole model of this name, or its
        pointer is damaged.
    """
    _check_folder(models)
    model_id = check_model(model_folder(models, name))
    with _lock_pointer(models):
        pointer = read_pointer(models)
        # A model with the same name but other weights is another model.
        if pointer.current == name and pointer.history[-1].model_id == model_id:
            return False
        _append_change(models, pointer, PROMOTE, name, model_id)
    return True


def undo(models: str) -> str:
    """Takes back the last active promotion and returns to the model that was current before it.

    Returns:
      The name of the model that is current now.

    Raises:
      CaptionerError: There is nothing to undo, or the earlier model is missing or has changed.
    """
    _check_folder(models)
    with _lock_pointer(models):
        pointer = read_pointer(models)
        promotions = pointer.active_promotions()
        if len(promotions) < 2:
            reason = f"{promotions[0].model!r} is the first model" if promotions else "no model was"
            raise CaptionerError(
                f"nothing to undo in {models!r}: {reason} promoted; promote another"
            )
        target = promotions[-2]
        model_id = check_model(model_folder(models, target.model))
        if model_id != target.model_id:
            raise CaptionerError(
                f"model {target.model!r} was {target.model_id!r} when it was promoted and is "
                f"{model_id!r} now; promote the model that you want"
            )
        _append_change(models, pointer, UNDO, target.model, model_id)
        return target.model


def list_models(models: str) -> list[ModelEntry]:
    """Returns the models of a folder of models, sorted by name.

    Raises:
      CaptionerError: The folder does not exist.
    """
    _check_folder(models)
    with one_line_errors(models):
        file_system, path = storage.resolve(models)
        found = file_system.get_file_info(pafs.FileSelector(path))
    names = sorted(item.base_name for item in found if item.type == pafs.FileType.Directory)
    # A name that starts with a dot belongs to a folder that is still being written.
    folders = {name: layout.join(models, name) for name in names if name[0] not in "._"}
    return [
        _read_entry(name, folder)
        for name, folder in folders.items()
        if storage.exists(layout.join(folder, CONFIG))
    ]


def _read_entry(name: str, folder: str) -> ModelEntry:
    """Returns the entry of a model. A damaged model is listed too, so that somebody notices it."""
    try:
        model_id = read_model_json(folder, METRICS).get("model_id")
        cider = latest_dev_cider(folder)
    except CaptionerError:
        return ModelEntry(name, None, None)
    return ModelEntry(name, model_id if isinstance(model_id, str) else None, cider)


def model_name(models: str, model: str) -> str:
    """Returns the name of a model that is given as a name or as a path of its folder.

    Raises:
      CaptionerError: The path does not lie directly below the folder of models.
    """
    parent, is_path, name = model.rstrip("/").rpartition("/")
    if not is_path:
        return name
    if not is_same_folder(parent or "/", models):
        raise CaptionerError(
            f"model folder {model!r} does not lie directly below {models!r}; move or copy it there"
        )
    return name


def model_folder(models: str, name: str) -> str:
    """Returns the folder of a model by its name.

    No name, whether from a user or from a pointer, leads out of the folder of models.

    Raises:
      CaptionerError: The name is not a plain name, or it is a link that leaves the folder.
    """
    if not layout.is_run_id(name):
        raise CaptionerError(
            f"model {name!r} must be the name of a folder directly below {models!r}: letters, "
            "digits, '.', '_' and '-', a letter or digit first; rename or move it"
        )
    uri = layout.join(models, name)
    if posixpath.dirname(_real_path(uri)) != _real_path(models):
        raise CaptionerError(
            f"model {name!r} in {models!r} is a link that leaves the folder; copy the model there"
        )
    return uri


def is_same_folder(folder: str, other: str) -> bool:
    """Returns whether two paths or URIs lead to the same folder.

    Raises:
      CaptionerError: A file system cannot be read.
    """
    with one_line_errors(folder):
        return _real_path(folder) == _real_path(other)


def _real_path(uri: str) -> str:
    """Returns the path of a folder, on the local file system without links."""
    file_system, path = storage.resolve(uri)
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    return os.path.realpath(path) if is_local else path.rstrip("/")


def _check_folder(models: str) -> None:
    with one_line_errors(models):
        file_system, path = storage.resolve(models)
        is_folder = file_system.get_file_info(path).type == pafs.FileType.Directory
    if not is_folder:
        raise CaptionerError(
            f"folder of models {models!r} is not a folder; name one that holds model folders"
        )


# --- Writing the pointer


@contextlib.contextmanager
def _lock_pointer(models: str) -> Iterator[None]:
    """Keeps other processes from changing the pointer while the block runs.

    This holds for the processes of this machine and, on a network file system, of other machines.
    Object stores have no locks: of two changes at the same moment, the later one wins there.
    """
    file_system, path = storage.resolve(models)
    if not isinstance(file_system, pafs.LocalFileSystem):
        yield
        return
    # The lock is a file of its own that stays, since the pointer itself will be replaced.
    # O_NOFOLLOW keeps a link from making a file elsewhere.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(os.path.join(path, _LOCK), flags, 0o666)
    except OSError as error:
        raise CaptionerError(
            f"folder of models {models!r} can't be written to ({error.strerror}); mend its "
            "permissions"
        ) from error
    try:
        # The lock ends with the descriptor, however this process ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _append_change(models: str, pointer: Pointer, action: str, name: str, model_id: str) -> None:
    utc = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    cider = latest_dev_cider(model_folder(models, name))
    change = Change(action, name, model_id, pointer.current, utc, cider)
    _write_pointer(
        layout.join(models, POINTER),
        {
            "schema_version": POINTER_VERSION,
            "current": name,
            "history": [dataclasses.asdict(one) for one in (*pointer.history, change)],
        },
    )


def _write_pointer(uri: str, value: Mapping[str, object]) -> None:
    file_system, path = storage.resolve(uri)
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    if is_local and os.path.islink(path):
        raise CaptionerError(
            f"{uri!r} is a link, and captioner writes through none; put the file itself there"
        )
    try:
        if is_local:
            storage.write_json(uri, value)
            return
        # An object appears as a whole once it is written. A rename, which copies there, would
        # not improve on that.
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with file_system.open_output_stream(path) as stream:
            stream.write(text.encode("utf-8"))
    except OSError as error:
        raise CaptionerError(
            f"{uri!r} can't be written ({first_line(error)}); mend its permissions, "
            "nothing was changed"
        ) from error


# --- Parsing the pointer

_POINTER_KEYS = {"schema_version", "current", "history"}
_CHANGE_KEYS = tuple(field.name for field in dataclasses.fields(Change))


def _parse_pointer(value: object) -> Pointer:
    """Returns the pointer that a JSON value describes.

    Raises:
      ValueError: The value describes no pointer; the message says why.
    """
    if not isinstance(value, dict) or value.get("schema_version") != POINTER_VERSION:
        raise ValueError(f"it is not of schema_version {POINTER_VERSION}")
    if value.keys() != _POINTER_KEYS or not isinstance(value["history"], list):
        raise ValueError("it must hold schema_version, current and history alone")
    history = tuple(_parse_change(number, one) for number, one in enumerate(value["history"]))
    current = history[-1].model if history else None
    pointer = Pointer(current, history)
    pointer.active_promotions()  # Raises an error if the changes do not follow from each other.
    if value["current"] != current:
        raise ValueError(f"current is {value['current']!r}, the history ends with {current!r}")
    return pointer


def _parse_change(number: int, value: object) -> Change:
    if not isinstance(value, dict) or value.keys() != set(_CHANGE_KEYS):
        raise ValueError(f"history[{number}] must hold {', '.join(_CHANGE_KEYS)} alone")
    change = Change(**value)
    names = (change.model,) if change.previous is None else (change.model, change.previous)
    is_valid = (
        change.action in (PROMOTE, UNDO)
        and all(isinstance(name, str) and layout.is_run_id(name) for name in names)
        and all(isinstance(text, str) for text in (change.model_id, change.utc))
        and (change.cider is None or is_finite_number(change.cider))
    )
    if not is_valid:
        raise ValueError(f"history[{number}] has a wrong value")
    return change
