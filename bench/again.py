"""Times a second run over a folder with 1 % new images, and checks the forecast of ``run --plan``.

    python -m bench.again --images DIR [--count N]

The images are linked into a folder of their own. Each run is a process of its own, and its time
includes the start of the process.
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
    args = parser.parse_args(argv)
    files = sorted(path for path in args.images.rglob("*") if path.is_file())[
        : args.count + args.count // 100
    ]
    with tempfile.TemporaryDirectory(dir=args.images.parent) as name:
        folder = Path(name, "images")
        out = Path(name, "out")
        folder.mkdir()
        for file in files[: args.count]:
            os.link(file, folder / file.name)
        run = ["--images", str(folder), "--output", str(out)]
        print(_captioner("run", "--plan", *run)[1])
        first, _ = _captioner("run", *run)
        print(f"first run, {args.count} images: {first:.1f} s")
        for file in files[args.count :]:
            os.link(file, folder / file.name)
        (folder / files[0].name).rename(folder / f"renamed-{files[0].name}")
        changed, _ = _captioner("run", *run)
        unchanged, _ = _captioner("run", *run)
        new = len(files) - args.count
        print(f"with {new} new and one renamed: {changed:.1f} s; with no change: {unchanged:.1f} s")
    return 0


def _captioner(*arguments: str) -> tuple[float, str]:
    """Runs ``captioner``, and returns the seconds that it took and what it printed."""
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
