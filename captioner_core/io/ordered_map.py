"""Work done ahead by threads while its results are awaited in order."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(function: Callable[[In], Out], items: Iterable[In], *, ahead: int) -> Iterator[Out]:
    """The function's result for each item, in the order of the items.

    Args:
      function: called in threads that all callers of this process share; must not call ``ordered_map`` itself.
      items: its arguments.
      ahead: results that wait at most.

    Raises:
      Exception: what the function raised, in its item's place.
    """
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(_threads().submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # the caller wants no more
            future.cancel()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # more than processors, since a thread that reads from afar waits; few, since each may hold a large file
    return ThreadPoolExecutor(min(32, 2 * processors), thread_name_prefix="ahead")
