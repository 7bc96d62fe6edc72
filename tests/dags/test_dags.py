"""The DAGs in real Airflow: they parse light, have the tasks they should have, and refuse bad parameters."""

from __future__ import annotations

import json

import pytest

from tests.dags.conftest import LOAD

GRAPHS = {
    "caption_folder": ["extract_features", "caption_images", "match_captions", "verify", "report"],
    "train_captioner": [
        "prepare_dataset",
        "extract_features",
        "train",
        "evaluate",
        "gate",
        "promote",
    ],
    "watch_inbox": ["find_folders", "start_runs"],
}

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "apache_beam", "numpy", "pyarrow", "spacy", "pandas", "keras", "PIL"}:
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Block())
"""


def test_graphs_parse_without_the_heavy_libraries(airflow):
    """Airflow's environment has none of them; what needs one would show as an import error in the UI."""
    said = airflow.run(
        BLOCK
        + LOAD
        + "import json; print(json.dumps({d.dag_id: [[t.task_id, sorted(t.downstream_task_ids)] for t in "
        + "d.topological_sort()] for d in bag.dags.values()}))"
    )
    chains = {
        dag_id: [
            [task, [after] if after else []]
            for task, after in zip(tasks, [*tasks[1:], None], strict=True)
        ]
        for dag_id, tasks in GRAPHS.items()
    }
    assert json.loads(said.splitlines()[-1]) == chains


def test_each_file_parses_within_a_second(airflow):
    """Airflow parses each file again and again; what it loads itself is loaded already."""
    said = airflow.run(
        LOAD
        + "print(max((stat.duration.total_seconds(), stat.file) for stat in DagBag("
        + repr(str(airflow.env["AIRFLOW__CORE__DAGS_FOLDER"]))
        + ").dagbag_stats)[0])"
    )
    assert float(said.splitlines()[-1]) < 1


def test_each_says_what_it_does_and_retries_and_ends(airflow):
    said = airflow.run(
        LOAD
        + """
import json
print(json.dumps({d.dag_id: {
    "doc": bool(d.doc_md),
    "help": [name for name in d.params if not d.params.get_param(name).description],
    "tasks": {t.task_id: [t.retries, bool(t.execution_timeout)] for t in d.tasks},
} for d in bag.dags.values()}))
"""
    )
    for dag_id, facts in json.loads(said.splitlines()[-1]).items():
        assert facts["doc"], dag_id
        assert not facts["help"], f"{dag_id}: fields without help: {facts['help']}"
        for task, (retries, timeout) in facts["tasks"].items():
            assert retries >= 1, f"{dag_id}.{task}"
            assert timeout or task == "start_runs", f"{dag_id}.{task}"


@pytest.mark.parametrize(
    ("dag_id", "bad"),
    [
        ("caption_folder", {"threshold": 1.5}),
        ("caption_folder", {"threshold": "high"}),
        ("caption_folder", {"top_k": -1}),
        ("caption_folder", {"beam_width": 21}),
        ("caption_folder", {"run_id": "../x"}),
        ("caption_folder", {"encoder": "x"}),
        ("caption_folder", {"runner": "x"}),
        ("caption_folder", {"images": ""}),
        ("caption_folder", {"index": "one"}),
        ("train_captioner", {"margin": 2}),
        ("train_captioner", {"workers": 0}),
        ("train_captioner", {"launcher": "ssh"}),
        ("watch_inbox", {"quiet_minutes": -1}),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(airflow, dag_id, bad):
    good = {
        "caption_folder": {"images": "in", "output": "out"},
        "train_captioner": {"output": "out"},
    }.get(dag_id, {})
    code = f"""
import json
try:
    bag.dags[{dag_id!r}].test(run_conf=json.loads({json.dumps({**good, **bad})!r}))
except Exception as error:
    print("refused", type(error).__name__)
"""
    assert "refused ParamValidationError" in airflow.run(LOAD + code)
    assert airflow.calls() == [], "before work starts"
