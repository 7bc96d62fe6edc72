"""The sources keep the measures of CONTRIBUTING that no other tool checks.

A second test shows that the rule about private names finds what it forbids. ruff checks the length
of lines and accesses such as ``module._name``; import-linter finds imports in a circle.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("captioner_core", "beam_jobs", "captioner_cli", "captioner_airflow", "dags")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
USERS = [
    path
    for folder in ("tests", "bench", "fuzz", "tools", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
MAX_MODULES = 12
MAX_BODY_LINES = 45
MAX_UNTYPED_RECORDS = 10
PRIVATE = re.compile(r"(?:[\w.]+\.)?_[A-Za-z]\w*")


def parse(path: Path) -> ast.Module:
    """Returns the syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Returns the path of a file relative to the repository."""
    return path.relative_to(ROOT).as_posix()


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields all functions and methods of a source file."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the number of lines of a function below its docstring."""
    has_docstring = ast.get_docstring(function) is not None and len(function.body) > 1
    body = function.body[1:] if has_docstring else function.body
    last = body[-1].end_lineno
    assert last is not None
    return last - body[0].lineno + 1


def private_uses(source: str) -> Iterator[str]:
    """Yields a line for each use of a private name of other code that ruff does not find."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"imports {name.name}" for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", ".object")):
            yield from _private_strings(node.args)
        elif isinstance(node, ast.Tuple):
            # Such as the parameters (module, "_NAME", value) of a call of setattr.
            pairs = zip(node.elts, node.elts[1:], strict=False)
            yield from _private_strings(
                [name for owner, name in pairs if isinstance(owner, ast.Name | ast.Attribute)]
            )
        elif isinstance(node, ast.Module | ast.FunctionDef):
            for function in node.body:
                if isinstance(function, ast.FunctionDef):
                    yield from _private_accesses(function)


def is_private(name: str) -> bool:
    """Returns whether a name, or the last part of a dotted name, is private."""
    return PRIVATE.fullmatch(name) is not None


def _private_strings(nodes: list[ast.expr]) -> Iterator[str]:
    """Yields a line for each of the nodes that is the text of a private name."""
    for node in nodes:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and is_private(value):
            yield f"line {node.lineno}: {value!r}"


def _private_accesses(function: ast.FunctionDef) -> Iterator[str]:
    """Yields a line for each private attribute that a function outside a class takes of ``self``.

    Such a function replaces the method of another module's class.
    """
    first = function.args.args[0].arg if function.args.args else ""
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        if first == ast.unparse(node.value) == "self":
            yield f"line {node.lineno}: self.{node.attr}"


def test_a_folder_holds_at_most_twelve_modules():
    folders = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert [name_of(path) for path, count in folders.items() if count > MAX_MODULES] == []


def test_every_public_function_and_class_has_a_docstring():
    undocumented = [
        f"{name_of(path)}: {node.name}"
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert undocumented == []


def test_a_function_body_has_at_most_45_lines():
    long = [
        f"{name_of(path)}: {function.name}"
        for path in SOURCES
        for function in functions_of(path)
        if body_lines(function) > MAX_BODY_LINES
    ]
    assert long == []


def test_few_records_are_dictionaries_of_anything():
    """A record has a TypedDict or a dataclass, and JSON of any content is a JsonObject."""
    uses = [
        f"{name_of(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for _ in re.findall(r"dict\[str, ?Any\]", line)
    ]
    assert len(uses) <= MAX_UNTYPED_RECORDS, uses


@pytest.mark.parametrize("path", USERS, ids=name_of)
def test_private_names_are_left_to_their_modules(path):
    assert list(private_uses(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "from captioner_core.io.storage import _s3",
        "monkeypatch.setattr(storage, '_ATTEMPTS', 2)",
        "monkeypatch.setattr('captioner_core.io.storage._ATTEMPTS', 2)",
        "mock.patch.object(storage, '_s3')",
        "getattr(storage, '_s3')",
        "for module, name in ((storage, '_s3'), 1): pass",
        "def f():\n    def count(self):\n        self._searched.inc()",
    ],
)
def test_the_rule_finds_private_names(source):
    assert len(list(private_uses(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from captioner_core import __version__",
        "fill(folder, '_SUCCESS')",
        "monkeypatch.setattr(os, 'open', read)",
        "class A:\n    def f(self):\n        return self._x",
    ],
)
def test_the_rule_permits_everything_else(source):
    assert list(private_uses(source)) == []


def test_the_rules_are_applied_to_all_packages():
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(PACKAGES)
    assert len(USERS) > 150
