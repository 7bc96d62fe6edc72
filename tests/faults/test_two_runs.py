"""Two processes that write to one root folder at the same time.

Runs with different names must not affect each other. Of two runs with the same name the one that
started last owns the folder, and the other one must stop.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from captioner_core.runs import commits
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.faults.forks import IMAGES, Forks, make_images
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Returns a second process that runs ``captioner`` in forks of itself."""
    forks = Forks(tmp_path_factory.mktemp("others"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def undisturbed(forks, others, tmp_path_factory):
    """Returns two folders of images, each with the folder of a run that was made alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = []
    for seed, process in ((1, forks), (2, others)):
        images = make_images(folder / f"images{seed}", IMAGES, seed)
        root = folder / f"root{seed}"
        assert process.run(images, root)[0] == 0
        runs.append((images, RunLayout(str(root), "run").run_dir))
    return runs


def test_runs_with_two_names_do_not_affect_each_other(forks, others, undisturbed, tmp_path):
    (images, _), (other_images, _) = undisturbed
    with ThreadPoolExecutor() as pool:
        first = pool.submit(forks.try_run, images, tmp_path, options=["--run-id=one"])
        second = pool.submit(others.try_run, other_images, tmp_path, options=["--run-id=two"])
    assert (first.result()[0], second.result()[0]) == (0, 0)
    for name, (_, run_dir) in zip(("one", "two"), undisturbed, strict=True):
        actual = RunLayout(str(tmp_path), name).run_dir
        assert verify(actual) == []
        assert_same_tables(actual, run_dir)


@pytest.mark.parametrize("wait_s", [0.0, 0.3, 0.6, 1.2, 2.0])
def test_of_two_runs_with_one_name_one_completes(forks, others, undisturbed, tmp_path, wait_s):
    """The other one says in one line that it was replaced, and readers see one complete run."""
    (images, _), (other_images, _) = undisturbed
    with ThreadPoolExecutor() as pool:
        first = pool.submit(forks.try_run, images, tmp_path)
        time.sleep(wait_s)
        second = pool.submit(others.try_run, other_images, tmp_path)
    outcomes = [first.result(), second.result()]
    assert 0 in [code for code, _ in outcomes]
    for code, output in outcomes:
        assert "Traceback" not in output
        if code:
            assert code == 2
            assert "was taken over by process" in output.splitlines()[-1]
    run = RunLayout(str(tmp_path), "run").run_dir
    assert verify(run) == []
    winner = [str(folder) for folder, _ in undisturbed].index(
        commits.read_manifest(run)["options"]["images"]
    )
    assert outcomes[winner][0] == 0
    assert_same_tables(run, undisturbed[winner][1])
