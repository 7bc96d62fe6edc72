"""``captioner run`` in forks of one process that has loaded all libraries, and images for it.

A fork starts at once, so that a test can afford many runs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.processes import read_line

IMAGES = 40


class Forks:
    """A client of ``tests.faults.killed``, which runs ``captioner`` in forks of itself.

    Args:
      folder: A folder for the logs of the runs.
    """

    def __init__(self, folder):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def close(self):
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, images, root, kill_at=0):
        """Runs captioner, which must succeed or be killed.

        Args:
          images: The folder of images.
          root: The root folder of the run.
          kill_at: The number of the write at which the run is killed, or 0.

        Returns:
          The exit code, and a line for each write that began.
        """
        code, output = self.try_run(images, root, kill_at)
        assert code in (0, -signal.SIGKILL), output[-3000:]
        return code, (self._folder / "log").read_text().splitlines()

    def try_run(self, images, root, kill_at=0, options=()):
        """Runs captioner with further options; returns its exit code and its output.

        The exit code is negative if a signal ended the run.
        """
        log = self._folder / "log"
        arguments = [
            "run",
            f"--images={images}",
            f"--output={root}",
            "--precision=float32",
            *options,
        ]
        request = {"arguments": arguments, "root": str(root), "log": str(log), "kill_at": kill_at}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = json.loads(read_line(self._process))["code"]
        return code, (self._folder / "log.output").read_text()


def make_images(folder, count, seed):
    """Writes random images and one empty file to a folder, and returns the folder."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, 4, 5, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).resize((50, 40)).save(folder / f"{number:03d}.png")
    (folder / "empty.jpg").touch()
    return folder
