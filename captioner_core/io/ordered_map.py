"""A map that runs in threads, a bounded number of items ahead of the caller, in order."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from captioner_core.process.processors import count_processors

In = TypeVar("In")
Out = TypeVar("Out")

_MAX_THREADS = 32


def ordered_map(
    function: Callable[[In], Out], items: Iterable[In], *, prefetch: int
) -> Iterator[Out]:
    """Calls a function for each item in threads, ahead of the caller.

    Args:
      function: called in threads that all callers in this process share. It must not call
        ``ordered_map`` itself, since it would wait for threads that wait for it.
      items: arguments of the function.
      prefetch: largest number of results that are computed before the caller asks for them.

    Yields:
      The results, in the order of the items.

    Raises:
      Exception: what the function raised, when the caller reaches the result of that item.
    """
    pending: deque[Future[Out]] = deque()
    try:
        for item in items:
            pending.append(_executor().submit(function, item))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:  # The caller has stopped early.
            future.cancel()


@functools.cache
def _executor() -> ThreadPoolExecutor:
    # More threads than processors, because a thread that reads from a network waits most of the
    # time. But only a few more, because each thread may hold a large file in memory.
    return ThreadPoolExecutor(
        min(_MAX_THREADS, 2 * count_processors()), thread_name_prefix="prefetch"
    )
