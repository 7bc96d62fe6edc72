"""Runs ``captioner`` in forks of this process and kills each at a chosen write.

``python -m tests.faults.killed`` reads a line of JSON from stdin for each fork: the ``arguments``
of captioner; the ``root`` folder whose writes are counted; the ``log`` file that names each write
before it is done; and ``kill_at``, the number of the write at which the fork kills itself with
SIGKILL, or 0. If that write writes bytes, half of them are written first. A line on stdout says
how the fork ended, and the file ``log`` with the suffix ``.output`` contains what it printed.

Everything is real except the networks. Every change of the file system counts as a write, whether
Python makes it, which its audit events report, or a pyarrow file system of ``storage.resolve``.
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
from unittest import mock

import numpy as np
from pyarrow import fs as pafs

import captioner_cli.main
import captioner_core.report
from beam_jobs import caption_images, match_captions
from captioner_core.captioning.captioning_models import CaptioningModels
from captioner_core.captioning.generated_caption import GeneratedCaption
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


class Killer:
    """Counts the writes below a folder, and kills this process at one of them.

    Args:
      root: The folder whose writes are counted.
      log: The file that names each write before it is done.
      kill_at: The number of the write at which the process is killed, or 0.
    """

    def __init__(self, root: str, log: str, kill_at: int) -> None:
        self._root = os.path.realpath(root)
        self._kill_at = kill_at
        self._count = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def before(self, operation: str, path: Any) -> bool:
        """Counts a write that is about to happen, and kills the process if it is the chosen one.

        If that is a write of bytes, the process still lives, and the caller must write half of
        them and then kill it.

        Args:
          operation: The name of the operation.
          path: The path that it changes; anything but a path below the root is ignored.

        Returns:
          Whether this is the chosen write.
        """
        if not isinstance(path, str | bytes):
            return False
        path = os.fsdecode(path)
        if not os.path.realpath(path).startswith(self._root):
            return False
        self._count += 1
        os.write(self._log, f"{operation} {os.path.relpath(path, self._root)}\n".encode())
        if self._count != self._kill_at:
            return False
        if operation != "write":
            self.kill()
        return True

    def kill(self) -> None:
        """Kills this process."""
        os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Counts the writes of Python's own functions, as a hook of ``sys.addaudithook``."""
        if event in _CHANGES:
            self.before(event, arguments[0])
        elif (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            self.before("open", arguments[0])


class _Stream:
    """An output stream of pyarrow's whose writes are counted.

    Args:
      stream: The stream that writes.
      path: Its file.
      killer: Counts the writes.
    """

    def __init__(self, stream: Any, path: str, killer: Killer) -> None:
        self._stream = stream
        self._path = path
        self._killer = killer

    def write(self, data: Any) -> int:
        """Writes bytes, or half of them if the process is killed here."""
        if self._killer.before("write", self._path):
            self._stream.write(memoryview(data)[: len(data) // 2])
            self._stream.flush()
            self._killer.kill()
        return self._stream.write(data)

    def close(self) -> None:
        """Closes the stream, which counts as a write."""
        if not self._stream.closed:
            self._killer.before("close", self._path)
            self._stream.close()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _FileSystem:
    """pyarrow's local file system, whose changes are counted.

    Args:
      killer: Counts the changes.
    """

    def __init__(self, killer: Killer) -> None:
        self._file_system = pafs.LocalFileSystem()
        self._killer = killer

    def open_output_stream(self, path: str) -> _Stream:
        """Creates a file, which counts as a write."""
        self._killer.before("create", path)
        return _Stream(self._file_system.open_output_stream(path), path, self._killer)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._file_system, name)
        if name not in ("move", "delete_dir", "delete_file", "create_dir"):
            return attribute

        def count_and_call(path: str, *arguments: Any, **keywords: Any) -> Any:
            self._killer.before(name, path)
            return attribute(path, *arguments, **keywords)

        return count_and_call


class _Generator:
    """A stand-in for a captioner that derives each caption from the features."""

    model_id = MODEL_ID

    def generate(self, features: np.ndarray, grid: np.ndarray) -> list[GeneratedCaption]:
        """Returns a caption for each row of the features."""
        digests = [hashlib.sha256(np.round(row, 3).tobytes()).digest()[0] for row in features]
        return [GeneratedCaption(caption_of(digest), -float(digest), 5) for digest in digests]


def _use_stand_ins() -> None:
    """Replaces the backbone and the captioner by stand-ins."""
    config = types.SimpleNamespace(beam_width=3)
    model = types.SimpleNamespace(config=config, model_id=MODEL_ID)
    models = CaptioningModels(FakeBackbone(), _Generator())
    mock.patch.object(caption_images, "load_model", return_value=model).start()
    mock.patch.object(caption_images, "load_models", return_value=models).start()


def _count_writes(killer: Killer) -> None:
    """Makes ``storage`` and Python report their writes."""
    resolve = storage.resolve

    def resolve_and_count(uri: str) -> tuple[Any, str]:
        file_system, path = resolve(uri)
        if isinstance(file_system, pafs.LocalFileSystem):
            return _FileSystem(killer), path
        return file_system, path

    # Only functions that write get this file system, because reading needs one of pyarrow's own.
    for name in ("write_text", "delete", "move", "output_stream"):
        function = getattr(storage, name)
        changed = types.FunctionType(
            function.__code__,
            {**vars(storage), "resolve": resolve_and_count},
            name,
            function.__defaults__,
            function.__closure__,
        )
        setattr(storage, name, changed)
    sys.addaudithook(killer.audit)


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    """Runs captioner in a fork as a request says, and returns its exit code."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return {"code": os.waitstatus_to_exitcode(status)}
    code = 1
    try:
        output = os.open(request["log"] + ".output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _use_stand_ins()
        _count_writes(Killer(request["root"], request["log"], request["kill_at"]))
        code = captioner_cli.main.main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Answers requests until stdin ends."""
    assert match_captions, "it is imported here, once for all forks"
    assert captioner_core.report, "it is imported here, once for all forks"
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
