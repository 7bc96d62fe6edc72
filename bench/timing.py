"""Times several ways to do one thing in turns, so that a slower machine slows all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping


def compare(
    title: str, ways: Mapping[str, Callable[[], object]], *, amount: int, unit: str, rounds: int = 5
) -> None:
    """Prints the rate of each way, its range, and its ratio to the first way.

    Args:
      title: the heading of the table.
      ways: functions by name; the first is the peer. Each is called once before it is timed.
      amount: the number of units that one call processes.
      unit: the plural name of a unit, such as ``images``.
      rounds: the number of timed calls of each way, of which the median counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    peer = next(iter(seconds.values()))
    machine = f"Python {platform.python_version()}, {_processor()}"
    print(f"\n{title} ({amount} {unit}, median of {rounds}; {machine})")
    print(f"{'way':48} {unit + '/s':>14} {'lowest':>8} {'highest':>8} {'ratio':>7}")
    for name, taken in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(peer, taken, strict=True))
        rates = [amount / statistics.median(taken), amount / max(taken), amount / min(taken)]
        print(
            f"{name:48} {rates[0]:14.1f} {rates[1]:8.1f} {rates[2]:8.1f} {ratio:7.2f}", flush=True
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
