"""The examples, commands and links of the README work."""

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


def code_blocks(language):
    """Returns the code blocks of the README in this language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", code_blocks("python"), ids=lambda code: code.split()[1])
def test_an_example_reads_a_run(code, tmp_path, monkeypatch, capsys):
    make_run(tmp_path, run_id="new")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "folder/img-0" in capsys.readouterr().out


def test_pandas_and_duckdb_have_an_example():
    assert {re.findall(r"import (\w+)", code)[0] for code in code_blocks("python")} == {
        "pandas",
        "duckdb",
    }


def test_captioner_accepts_the_commands_and_make_has_the_targets():
    lines = [line for block in code_blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    parser = make_parser()
    for _, *arguments in (command for command in commands if command[0].endswith("captioner")):
        parser.parse_args(arguments)
    make_commands = [command for command in commands if command[0] == "make"]
    assert len(make_commands) >= 5
    exported = re.findall(r"^export (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    for _, target, *variables in make_commands:
        assert f"\n{target}:" in MAKEFILE
        assert {variable.partition("=")[0] for variable in variables} <= set(exported)


def test_links_lead_to_existing_files():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
