"""Times whole commands as users run them, from the first process to the last table.

    python -m bench.commands --images DIR [--count N] [--rounds N]

``captioner --help``, ``captioner run`` with one image, and ``captioner caption`` with ``--count``
photographs. Each runs once before it is timed, so that the compiled graph is in the cache. The last
table shows where the time for one image goes; each of its rounds is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

COUNT = 1000
ROUNDS = 5
CAPTIONER = (sys.executable, "-m", "captioner_cli.main")


class Cost(NamedTuple):
    """The cost of a command.

    Args:
      seconds: Its time.
      peak_mb: The largest memory of one of its processes, in MB.
    """

    seconds: float
    peak_mb: float


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--phases", nargs=2, metavar=("IMAGES", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.phases:
        print(json.dumps(_time_phases(*args.phases)))
        return 0
    files = sorted(path for path in args.images.iterdir() if path.is_file())
    with tempfile.TemporaryDirectory(dir=args.images.parent) as name:
        one = _link(files[:1], Path(name, "one"))
        many = _link(files[: args.count], Path(name, "many"))
        output = Path(name, "out")
        _print_costs("captioner --help", ["--help"], output, args.rounds)
        _print_costs("captioner run, one image", ["run", "--images", one], output, args.rounds)
        cost = _print_costs(
            f"captioner caption, {args.count:,} photographs",
            ["caption", "--images", many],
            output,
            args.rounds,
        )
        print(f"{'':40} {1e3 * cost.seconds / args.count:.1f} ms an image, the start included")
        _print_phases(one, Path(name), args.rounds)
    return 0


def _link(files: Sequence[Path], folder: Path) -> str:
    """Returns a new folder with hard links to the files."""
    folder.mkdir()
    for file in files:
        os.link(file, folder / file.name)
    return str(folder)


def _print_costs(title: str, arguments: Sequence[str], output: Path, rounds: int) -> Cost:
    """Runs a command of captioner several times, and prints and returns the median of its costs."""
    costs = []
    for number in range(rounds + 1):
        where = [] if arguments == ["--help"] else ["--output", f"{output}-{time.time_ns()}"]
        cost = _measure([*CAPTIONER, *arguments, *where])
        if number:
            costs.append(cost)
    seconds = [cost.seconds for cost in costs]
    median = Cost(statistics.median(seconds), statistics.median(cost.peak_mb for cost in costs))
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"{title:40} {median.seconds:7.2f} s ({spread}) {median.peak_mb:7,.0f} MB", flush=True)
    return median


def _measure(command: Sequence[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / 1e3)


def _print_phases(images: str, folder: Path, rounds: int) -> None:
    """Prints where the time for one image goes."""
    command = [sys.executable, "-m", "bench.commands", "--images", images, "--phases", images]
    found = []
    for number in range(rounds):
        done = subprocess.run(
            [*command, str(folder / f"phases{number}")],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print("\nwhere the time for one image goes")
    for phase in found[0]:
        print(f"{phase:40} {statistics.median(one[phase] for one in found):7.2f} s")


def _time_phases(images: str, output: str) -> dict[str, float]:
    """Runs all stages for one image in this process, and returns the seconds of each phase."""
    clock = _Clock()
    from captioner_cli import main as _  # noqa: F401

    clock.end("import of the command line")
    from beam_jobs import caption_images, handlers, match_captions
    from beam_jobs.workflows.run import plan_run

    clock.end("import of Beam and of the jobs")
    from captioner_core.options import PRETRAINED, RunOptions
    from captioner_core.report import write_report

    plan = plan_run(RunOptions(images=images, output=output, model=PRETRAINED))
    clock.end("checks before any work")
    load_model = handlers.CaptionHandler.load_model

    def load_and_note(handler: handlers.CaptionHandler) -> Any:
        """Loads network, captioner and encoder, and notes how long that takes."""
        clock.end("caption stage until the network is loaded")
        models = load_model(handler)
        clock.end("network, captioner and encoder loaded")
        return models

    handlers.CaptionHandler.load_model = load_and_note  # type: ignore[assignment, method-assign]
    manifest = caption_images.execute(plan.caption, complete=False)
    clock.end("rest of the caption stage")
    match_captions.execute(plan.match, (), manifest)
    clock.end("match stage")
    write_report(plan.options.layout.run_dir)
    clock.end("report")
    return clock.seconds


class _Clock:
    """Notes the seconds of one phase after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def end(self, phase: str) -> None:
        """Notes the seconds since the end of the phase before."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._start
        self._start = now


if __name__ == "__main__":
    sys.exit(main())
