"""The targets of the fuzzer, without the fuzzer itself.

The targets must accept the seeds and all earlier findings, and must report an error that is not
allowed, so that the fuzzer can find one.
"""

from __future__ import annotations

import pytest

from captioner_core.datasets import csv_captions
from captioner_core.images import decoding
from fuzz import targets
from fuzz.seeds import FOUND, found, seeds
from fuzz.targets import TARGETS


def _run_seeds(target):
    """Passes all seeds to a target and returns their number."""
    inputs = seeds(target)
    for data in inputs:
        TARGETS[target](data)
    return len(inputs)


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_break_no_target(target):
    assert _run_seeds(target) > 1


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (folder.name, path)
        for folder in sorted(FOUND.iterdir())
        for path in sorted(folder.iterdir())
    ],
)
def test_earlier_findings_stay_fixed(target, path):
    assert path.read_bytes() in found(target)
    TARGETS[target](path.read_bytes())


@pytest.mark.parametrize(
    ("target", "module", "name"),
    [
        ("images", decoding, "decode"),
        ("datasets", csv_captions, "read_records"),
        ("models", targets, "check_model"),
    ],
)
def test_an_undocumented_error_is_a_finding(target, module, name, monkeypatch):
    def raise_index_error(*args, **kwargs):
        raise IndexError("found")

    monkeypatch.setattr(module, name, raise_index_error)
    with pytest.raises(IndexError, match="found"):
        _run_seeds(target)


def test_a_failure_message_of_two_lines_is_a_finding(monkeypatch):
    monkeypatch.setattr(decoding, "kind_of", lambda data: "two\nlines")
    with pytest.raises(AssertionError):
        TARGETS["images"](b"hello")
