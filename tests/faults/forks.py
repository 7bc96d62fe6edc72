"""``captioner run`` in forks of one process that has everything loaded, and folders of images for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
from PIL import Image

IMAGES = 40


class Forks:
    """Starts ``captioner`` in forks of one process that has everything loaded."""

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
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, images, root, kill_at=0):
        """The exit code of a run that is killed or does well, and the writes that were begun."""
        code, said = self.try_run(images, root, kill_at)
        assert code in (0, -signal.SIGKILL), said[-3000:]
        return code, (self._folder / "log").read_text().splitlines()

    def try_run(self, images, root, kill_at=0, options=()):
        """The exit code, negative for a signal, and what it said."""
        log = self._folder / "log"
        asked = ["run", f"--images={images}", f"--output={root}", "--precision=float32", *options]
        question = {"arguments": asked, "root": str(root), "log": str(log), "kill_at": kill_at}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())["code"]
        return code, (self._folder / "log.said").read_text()


def make_images(folder, count, seed):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, 4, 5, 3), np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).resize((50, 40)).save(folder / f"{number:03d}.png")
    (folder / "empty.jpg").touch()
    return folder
