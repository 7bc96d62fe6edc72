"""A second run over a folder in which one image in a hundred is new, and whether ``run --plan`` foretold the first.

    python -m bench.again --images DIR [--count N]

The images are linked into a folder of their own; each run is a process of its own, its start included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT = 400


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=COUNT)
    asked = parser.parse_args(argv)
    files = sorted(path for path in asked.images.rglob("*") if path.is_file())[
        : asked.count + asked.count // 100
    ]
    with tempfile.TemporaryDirectory(dir=asked.images.parent) as name:
        folder, out = Path(name, "images"), Path(name, "out")
        folder.mkdir()
        for file in files[: asked.count]:
            os.link(file, folder / file.name)
        run = ["--images", str(folder), "--output", str(out)]
        print(_captioner("run", "--plan", *run)[1])
        first, _ = _captioner("run", *run)
        print(f"first run, {asked.count} images: {first:.1f} s")
        for file in files[asked.count :]:
            os.link(file, folder / file.name)
        (folder / files[0].name).rename(folder / f"renamed-{files[0].name}")
        again, _ = _captioner("run", *run)
        idle = _captioner("run", *run)[0]
        print(
            f"with {len(files) - asked.count} new and one renamed: {again:.1f} s; with nothing new: {idle:.1f} s"
        )
    return 0


def _captioner(*arguments: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "captioner_cli", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    sys.exit(main())
