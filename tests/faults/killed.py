"""``captioner run`` in forks of one process, each killed at a write of its choice: ``python -m tests.faults.killed``.

A line of JSON on stdin starts a fork: ``arguments`` of captioner, ``root`` whose writes count,
``log`` in which each write is named before it is done, and ``kill_at``, the number of the write
at which SIGKILL strikes, 0 for none. A write of bytes is half done by then. A line on stdout
says how the fork ended.

Everything is real but the networks. What counts as a write is what the file systems are
asked for: by Python's own calls, which its audit events tell, and by pyarrow's, which
``storage.resolve`` hands out.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
import types
from typing import Any

import numpy as np
from pyarrow import fs as pafs

import captioner_cli.main
import captioner_core.report
from beam_jobs import caption_images, match_captions
from captioner_core.captioning.captioning_models import CaptioningModels
from captioner_core.captioning.generator import GeneratedCaption
from captioner_core.io import storage
from tests.fakes import FakeBackbone
from tests.runs import MODEL_ID, caption_of

_CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
    "shutil.move",
}


class Kill:
    """Counts writes below a folder, and kills this process at one of them."""

    def __init__(self, root: str, log: str, kill_at: int) -> None:
        self._root, self._kill_at, self.count = os.path.realpath(root), kill_at, 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def before(self, what: str, path: Any) -> bool:
        """Counts a write; True where it is the last one, and only half of it is to be done."""
        if not isinstance(path, str | bytes) or not os.path.realpath(os.fsdecode(path)).startswith(
            self._root
        ):
            return False
        self.count += 1
        os.write(self._log, f"{what} {os.path.relpath(os.fsdecode(path), self._root)}\n".encode())
        if self.count != self._kill_at:
            return False
        if what != "write":
            self.now()
        return True

    def now(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook for Python's own calls."""
        if event in _CHANGES:
            self.before(event, arguments[0])
        elif (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            self.before("open", arguments[0])


class _Stream:
    def __init__(self, stream: Any, path: str, kill: Kill) -> None:
        self._stream, self._path, self._kill = stream, path, kill

    def write(self, data: Any) -> int:
        if self._kill.before("write", self._path):
            self._stream.write(memoryview(data)[: len(data) // 2])
            self._stream.flush()
            self._kill.now()
        return self._stream.write(data)

    def close(self) -> None:
        if not self._stream.closed:
            self._kill.before("close", self._path)
            self._stream.close()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _FileSystem:
    """pyarrow's local file system, whose changes are counted."""

    def __init__(self, kill: Kill) -> None:
        self._inner, self._kill = pafs.LocalFileSystem(), kill

    def open_output_stream(self, path: str) -> _Stream:
        self._kill.before("create", path)
        return _Stream(self._inner.open_output_stream(path), path, self._kill)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("move", "delete_dir", "delete_file", "create_dir"):
            return found

        def counted(path: str, *others: Any, **named: Any) -> Any:
            self._kill.before(name, path)
            return found(path, *others, **named)

        return counted


class _Generator:
    """Captions by the features alone."""

    model_id = MODEL_ID

    def generate(self, features: np.ndarray, grids: np.ndarray) -> list[GeneratedCaption]:
        digests = [hashlib.sha256(np.round(row, 3).tobytes()).digest()[0] for row in features]
        return [GeneratedCaption(caption_of(digest), -float(digest), 5) for digest in digests]


def _use_stand_ins() -> None:
    config = types.SimpleNamespace(beam_width=3)
    caption_images.load_model = lambda folder: types.SimpleNamespace(
        config=config, model_id=MODEL_ID
    )
    caption_images.load_models = lambda *arguments: CaptioningModels(FakeBackbone(), _Generator())


def _count_writes(kill: Kill) -> None:
    resolve = storage.resolve

    def counted(uri: str) -> tuple[Any, str]:
        file_system, path = resolve(uri)
        return (
            _FileSystem(kill) if isinstance(file_system, pafs.LocalFileSystem) else file_system
        ), path

    # only where it is written: readers want pyarrow's own
    for name in ("write_text", "delete", "move", "output_stream"):
        function = getattr(storage, name)
        changed = types.FunctionType(
            function.__code__,
            {**vars(storage), "resolve": counted},
            name,
            function.__defaults__,
            function.__closure__,
        )
        setattr(storage, name, changed)
    sys.addaudithook(kill.audit)


def _fork(asked: dict[str, Any]) -> dict[str, Any]:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return {"code": os.waitstatus_to_exitcode(status)}
    code = 1
    try:
        said = os.open(asked["log"] + ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        _use_stand_ins()
        _count_writes(Kill(asked["root"], asked["log"], asked["kill_at"]))
        code = captioner_cli.main.main(asked["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Forks until stdin ends."""
    assert match_captions, "loaded here, once for all forks"
    assert captioner_core.report, "likewise"
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
