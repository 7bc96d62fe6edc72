"""ordered_map keeps the order, limits how far it runs ahead, and raises errors in their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from captioner_core.io.ordered_map import ordered_map


def test_results_have_the_order_of_the_items():
    def slow_first(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return -number

    assert list(ordered_map(slow_first, range(20), prefetch=4)) == [-number for number in range(20)]


def test_no_more_than_prefetch_results_are_computed_ahead():
    started: list[int] = []
    results = ordered_map(started.append, range(100), prefetch=5)
    assert isinstance(results, Generator)
    next(results)
    time.sleep(0.1)
    assert len(started) <= 6
    results.close()


def test_an_error_is_raised_at_the_result_of_its_item():
    def fails_at_two(number):
        if number == 2:
            raise KeyError(number)
        return number

    results = ordered_map(fails_at_two, range(5), prefetch=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)


def test_work_continues_while_the_caller_is_busy():
    done = threading.Event()
    results = ordered_map(lambda number: done.set() if number else None, range(2), prefetch=2)
    next(results)
    assert done.wait(5), "the second item was computed before its result was requested"
