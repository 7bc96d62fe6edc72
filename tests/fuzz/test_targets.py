"""The fuzzer's targets without the fuzzer: what it begins with, what it once found, and that it can find something."""

from __future__ import annotations

import pytest

from captioner_core.captioning import saved_model
from captioner_core.datasets import csv_captions
from captioner_core.images import decoding
from fuzz.seeds import FOUND, found, seeds
from fuzz.targets import TARGETS


def _give_all(target):
    """Gives a target all that it begins with; how many that were."""
    inputs = seeds(target)
    for data in inputs:
        TARGETS[target](data)
    return len(inputs)


@pytest.mark.parametrize("target", TARGETS)
def test_what_it_begins_with_breaks_nothing(target):
    assert _give_all(target) > 1


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (folder.name, path)
        for folder in sorted(FOUND.iterdir())
        for path in sorted(folder.iterdir())
    ],
)
def test_what_was_found_stays_mended(target, path):
    assert path.read_bytes() in found(target)
    TARGETS[target](path.read_bytes())


@pytest.mark.parametrize(
    ("target", "module", "name"),
    [
        ("images", decoding, "decode"),
        ("datasets", csv_captions, "read_records"),
        ("models", saved_model, "_check_weights"),
    ],
)
def test_an_error_that_no_documentation_names_is_a_finding(target, module, name, monkeypatch):
    def broken(*args, **kwargs):
        raise IndexError("found")

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(IndexError, match="found"):
        _give_all(target)


def test_a_failure_that_no_row_can_hold_is_a_finding(monkeypatch):
    monkeypatch.setattr(decoding, "kind_of", lambda data: "two\nlines")
    with pytest.raises(AssertionError):
        TARGETS["images"](b"hello")
