"""The recipes of the container images fit the repository.

They are linted and compared with the files that they copy; no image is built.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
RECIPES = ("docker/Dockerfile", "docker/Dockerfile.gpu")


@pytest.mark.parametrize("recipe", RECIPES)
def test_hadolint_finds_nothing_in_the_recipe(recipe):
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / recipe], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_copied_files_exist_and_are_not_ignored(recipe):
    ignored, *lines = (
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    )
    assert ignored == "*"
    not_ignored = {line[1:] for line in lines if line.startswith("!")}
    copied = [
        name
        for names in re.findall(r"^COPY ([^-].*) \S+$", (ROOT / recipe).read_text(), re.M)
        for name in names.split()
    ]
    assert {"setup.py", "requirements.lock", "captioner_core"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert name in not_ignored


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_argument_chooses_the_python_version_of_all_stages(recipe):
    text = (ROOT / recipe).read_text()
    assert re.search(r"^ARG PYTHON=3\.1[123]$(?=.*^FROM)", text, re.M | re.S)
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert set(bases) == {
        "apache/beam_python${PYTHON}_sdk:2.77.0",
        "python:${PYTHON}-slim-bookworm",
    }


def test_gpu_lock_pins_what_tensorflow_requires():
    required = [Requirement(line) for line in requires("tensorflow") or () if "and-cuda" in line]
    pinned = dict(line.split("==") for line in (ROOT / "docker/gpu.lock").read_text().split())
    assert {requirement.name for requirement in required} == set(pinned)
    assert [
        str(requirement)
        for requirement in required
        if pinned[requirement.name] not in requirement.specifier
    ] == []
