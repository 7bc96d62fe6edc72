"""What the README tells a newcomer works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from captioner_cli.main import make_parser
from tests.runs import make_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split()[1])
def test_the_examples_read_a_run(code, tmp_path, monkeypatch, capsys):
    make_run(tmp_path, run_id="new")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "folder/img-0" in capsys.readouterr().out


def test_there_are_examples_for_pandas_and_duckdb():
    assert {re.search(r"import (\w+)", code)[1] for code in blocks("python")} == {
        "pandas",
        "duckdb",
    }


def test_the_commands_parse():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    parser = make_parser()
    for _, *arguments in (command for command in commands if command[0].endswith("captioner")):
        parser.parse_args(arguments)
    made = [command for command in commands if command[0] == "make"]
    assert len(made) >= 5
    exported = re.search(r"^export (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    for _, target, *variables in made:
        assert f"\n{target}:" in MAKEFILE
        assert {variable.partition("=")[0] for variable in variables} <= set(exported)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
