"""What all tests share: order and determinism."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, and no clock: another test may be using the processor
settings.register_profile("captioner", deadline=None, derandomize=True)
settings.load_profile("captioner")


def pytest_collection_modifyitems(items):
    """Slow tests first, so that the fast ones fill the other processor in the meantime."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
