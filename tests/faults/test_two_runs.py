"""Two processes on one root: runs of two names don't touch each other, of two with one name the last begun has it."""

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
    """Forks of a process of their own."""
    forks = Forks(tmp_path_factory.mktemp("others"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def undisturbed(forks, others, tmp_path_factory):
    """Two folders of images and a run of each, each done alone."""
    place = tmp_path_factory.mktemp("undisturbed")
    done = []
    for seed, starter in ((1, forks), (2, others)):
        images, root = make_images(place / f"images{seed}", IMAGES, seed), place / f"root{seed}"
        assert starter.run(images, root)[0] == 0
        done.append((images, RunLayout(str(root), "run").run_dir))
    return done


def test_two_names_on_one_root(forks, others, undisturbed, tmp_path):
    (images, _), (other_images, _) = undisturbed
    with ThreadPoolExecutor() as pool:
        one = pool.submit(forks.try_run, images, tmp_path, options=["--run-id=one"])
        two = pool.submit(others.try_run, other_images, tmp_path, options=["--run-id=two"])
    assert (one.result()[0], two.result()[0]) == (0, 0)
    for name, (_, run_dir) in zip(("one", "two"), undisturbed, strict=True):
        made = RunLayout(str(tmp_path), name).run_dir
        assert verify(made) == []
        assert_same_tables(made, run_dir)


@pytest.mark.parametrize("wait_s", [0.0, 0.3, 0.6, 1.2, 2.0])
def test_one_name_for_two(forks, others, undisturbed, tmp_path, wait_s):
    """Whoever gives way says so in one line; what readers find is one of the two, whole."""
    (images, _), (other_images, _) = undisturbed
    with ThreadPoolExecutor() as pool:
        one = pool.submit(forks.try_run, images, tmp_path)
        time.sleep(wait_s)
        two = pool.submit(others.try_run, other_images, tmp_path)
    outcomes = [one.result(), two.result()]
    assert 0 in [code for code, _ in outcomes]
    for code, said in outcomes:
        assert "Traceback" not in said
        if code:
            assert code == 2
            assert "was taken over by process" in said.splitlines()[-1]
    run = RunLayout(str(tmp_path), "run").run_dir
    assert verify(run) == []
    winner = [str(folder) for folder, _ in undisturbed].index(
        commits.read_manifest(run)["options"]["images"]
    )
    assert outcomes[winner][0] == 0
    assert_same_tables(run, undisturbed[winner][1])
