"""Files, modules, names and make targets that the documentation mentions exist."""

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
# Folders that pages mention, but that a fresh clone does not contain.
CREATED_LATER = {".venv", "out"}


def read(path: str) -> str:
    """Returns the text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_a_page_exist(page):
    for path in re.findall(r"`([\w./-]+)`", read(page)):
        if path.split("/")[0] in FOLDERS - CREATED_LATER and "/" in path:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_modules_in_a_page_exist(page):
    for module in re.findall(r"`(captioner_core(?:\.\w+)+)`", read(page)):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


def test_names_in_contributing_exist():
    """Checks each name in backticks beside its file, such as `NAME` in `package/module.py`."""
    mentioned = re.findall(r"`(\w+)` in\s+`([\w/]+\.py)`", read("CONTRIBUTING.md"))
    assert mentioned
    for name, path in mentioned:
        assert re.search(rf"\b{name}\b", read(path)), f"{name} in {path}"


def test_the_list_of_decisions_is_complete():
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
    in_script, in_workflow = [{word.strip(",") for word in words} & targets for words in called]
    assert in_script == in_workflow
    assert {"lint", "typecheck", "test", "test-quick", "docs"} <= in_script
