"""Importing a module loads no heavy library that it must not need.

Each rule is checked in a fresh interpreter.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

RULES = [
    (
        "captioner_core",
        {"tensorflow", "apache_beam", "airflow", "spacy", "numpy", "PIL", "pyarrow"},
    ),
    ("captioner_core.api.images", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.api.runs", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.api.search", {"tensorflow", "apache_beam", "airflow", "spacy", "matplotlib"}),
    ("captioner_core.options", {"tensorflow", "apache_beam", "airflow", "numpy", "pyarrow"}),
    ("captioner_core.tables.layout", {"tensorflow", "apache_beam", "airflow", "numpy", "pyarrow"}),
    ("captioner_core.matching", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.runs.verify", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.images.decoding", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.datasets", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.models.registry", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.runs.inbox", {"tensorflow", "apache_beam", "airflow", "spacy"}),
    ("captioner_core.report", {"tensorflow", "apache_beam", "airflow", "spacy", "matplotlib"}),
    ("captioner_core.training.loop", {"apache_beam", "airflow", "spacy"}),
    ("captioner_core.captioning.generator", {"apache_beam", "airflow", "spacy", "tensorflow"}),
    ("captioner_core.text.encoders.spacy_content", {"apache_beam", "airflow", "tensorflow"}),
    # What these programs refuse, they refuse before they load TensorFlow, which takes seconds.
    ("captioner_core.analysis.evaluation", {"airflow", "apache_beam", "tensorflow"}),
    ("captioner_core.api.captions", {"airflow", "apache_beam", "tensorflow"}),
    ("beam_jobs.extract_features", {"airflow", "tensorflow"}),
    ("beam_jobs.caption_images", {"airflow", "tensorflow"}),
    ("beam_jobs.match_captions", {"airflow", "tensorflow"}),
    ("beam_jobs.workflows.run", {"airflow", "tensorflow"}),
    *(
        (
            f"captioner_airflow.{name}",
            {"tensorflow", "apache_beam", "spacy", "numpy", "pyarrow", "fastapi", "kubernetes"},
        )
        for name in (
            "assets",
            "caption_run",
            "inbox",
            "jobs",
            "launchers",
            "train_run",
            "train_operator",
        )
    ),
    ("captioner_cli.main", {"tensorflow", "apache_beam", "airflow", "spacy", "matplotlib"}),
]


@pytest.mark.parametrize(("module", "absent"), RULES, ids=[module for module, _ in RULES])
def test_importing_a_module_loads_no_heavy_library(module, absent):
    code = f"import sys, {module}; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_making_the_parser_loads_no_heavy_library():
    code = (
        "import sys; from captioner_cli.main import make_parser; make_parser(); "
        "heavy = {'tensorflow', 'apache_beam', 'spacy', 'matplotlib', 'pyarrow'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
