"""What the documentation says about the repository is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/performance.md",
    "docs/python.md",
    "docs/scale.md",
    *(f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("*.md"))),
)
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}
# Folders that are not in a fresh clone, but that pages speak of.
MADE = {".venv", "out"}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_a_page_names_exist(page):
    for path in re.findall(r"`([\w./-]+)`", read(page)):
        if path.split("/")[0] in FOLDERS - MADE and "/" in path:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_exist(page):
    for module in re.findall(r"`(captioner_core(?:\.\w+)+)`", read(page)):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


def test_names_that_contributing_names_exist():
    """A constant or class in backticks beside its file, such as `NAME` in `package/module.py`."""
    named = re.findall(r"`(\w+)` in\s+`([\w/]+\.py)`", read("CONTRIBUTING.md"))
    assert named
    for name, path in named:
        assert re.search(rf"\b{name}\b", read(path)), f"{name} in {path}"


def test_the_list_of_decisions_names_each_one():
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", read("docs/decisions/README.md"))
    assert listed == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))


def test_both_ci_files_run_the_same_targets():
    targets = set(re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.MULTILINE))
    called = [
        {word for line in re.findall(pattern, read(path), re.MULTILINE) for word in line.split()}
        for path, pattern in (
            (".ci/run", r"^ *make (.*)$"),
            (".github/workflows/ci.yml", r"(?:target: \[|run: make )([^\]\n]*)"),
        )
    ]
    in_script, in_workflow = ({word.strip(",") for word in words} & targets for words in called)
    assert in_script == in_workflow
    assert {"lint", "typecheck", "test", "test-quick", "docs"} <= in_script
