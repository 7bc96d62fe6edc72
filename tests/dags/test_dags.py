"""Airflow parses the DAGs quickly, finds their tasks, and refuses bad parameters.

The tests run a real Airflow with its own database in processes of their own.
"""

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

BLOCK_HEAVY_LIBRARIES = """
import sys
heavy = {"tensorflow", "apache_beam", "numpy", "pyarrow", "spacy", "pandas", "keras", "PIL"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def test_graphs_parse_without_the_heavy_libraries(airflow):
    """Airflow's environment has none of them; importing one would be an import error in the UI."""
    code = """
import json
print(json.dumps({dag.dag_id: [[task.task_id, sorted(task.downstream_task_ids)]
                               for task in dag.topological_sort()] for dag in bag.dags.values()}))
"""
    output = airflow.run(BLOCK_HEAVY_LIBRARIES + LOAD + code)
    chains = {}
    for dag_id, tasks in GRAPHS.items():
        downstream = [*([task] for task in tasks[1:]), []]
        chains[dag_id] = [list(pair) for pair in zip(tasks, downstream, strict=True)]
    assert json.loads(output.splitlines()[-1]) == chains


def test_each_file_parses_within_a_second(airflow):
    """Airflow parses each file repeatedly. The second parse excludes Airflow's own imports."""
    code = f"""
stats = DagBag({airflow.env["AIRFLOW__CORE__DAGS_FOLDER"]!r}).dagbag_stats
print(max(stat.duration.total_seconds() for stat in stats))
"""
    assert float(airflow.run(LOAD + code).splitlines()[-1]) < 1


def test_each_dag_has_documentation_retries_and_timeouts(airflow):
    code = """
import json
print(json.dumps({d.dag_id: {
    "doc": bool(d.doc_md),
    "undescribed": [name for name in d.params if not d.params.get_param(name).description],
    "tasks": {t.task_id: [t.retries, bool(t.execution_timeout)] for t in d.tasks},
} for d in bag.dags.values()}))
"""
    dags = json.loads(airflow.run(LOAD + code).splitlines()[-1])
    for dag_id, dag in dags.items():
        assert dag["doc"], dag_id
        assert not dag["undescribed"], f"{dag_id}: fields without description"
        for task, (retries, has_timeout) in dag["tasks"].items():
            assert retries >= 1, f"{dag_id}.{task}"
            assert has_timeout or task == "start_runs", f"{dag_id}.{task}"


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
