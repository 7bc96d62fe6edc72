"""The examples use the public API alone, and work as they are."""

from __future__ import annotations

import ast
import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

import captioner_core

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "tour.ipynb"


def notebook_code():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def run_example(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("path", [*SCRIPTS, NOTEBOOK], ids=lambda path: path.name)
def test_an_example_uses_the_public_names_alone(path):
    code = notebook_code() if path == NOTEBOOK else path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert "captioner_core" in modules
    ours = ("captioner_core.", "captioner_cli", "captioner_airflow", "beam_jobs")
    assert not [module for module in modules if module.startswith(ours)]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "captioner_core"
    }
    assert used
    assert used <= set(captioner_core.__all__)


def test_the_notebook_is_small():
    assert NOTEBOOK.stat().st_size < 300_000


def test_the_notebook_shows_the_results_of_its_cells():
    """Its cells were run in their order, in a fresh kernel."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code_cells = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code_cells]
    assert counts == list(range(1, len(code_cells) + 1))
    assert all(cell["outputs"] for cell in code_cells[1:])


@pytest.mark.assets
@pytest.mark.slow
def test_a_folder_becomes_a_csv_file(sample_run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "captions.csv"
    run_example(monkeypatch, "caption_folder.py", sample_run / "data" / "images", output)
    with output.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30
    assert all(row["caption"] and not row["error_type"] for row in rows)
    assert "30 images captioned" in capsys.readouterr().out


@pytest.mark.assets
@pytest.mark.slow
def test_a_sentence_finds_images_of_a_run(sample_run, monkeypatch, capsys):
    run_dir = sample_run / "out" / "runs" / "run"
    run_example(monkeypatch, "search_run.py", run_dir, "a dog in the grass", "--top-k", "3")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["1", "2", "3"]


@pytest.mark.assets
@pytest.mark.slow
def test_the_weakest_captions_come_first(sample_run, monkeypatch, capsys):
    run_dir = sample_run / "out" / "runs" / "run"
    run_example(monkeypatch, "weakest_captions.py", run_dir, "--count", "5")
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["image_id", "caption", "log_prob_per_word"]
    averages = [float(line.split()[-1]) for line in lines]
    assert len(averages) == 5
    assert averages == sorted(averages)


@pytest.mark.assets
@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_their_order(sample_run, monkeypatch):
    monkeypatch.chdir(sample_run)
    exec(compile(notebook_code(), NOTEBOOK.name, "exec"), {"__name__": "__main__"})
