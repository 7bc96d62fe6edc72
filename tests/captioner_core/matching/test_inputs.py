"""An update of matches reads what the earlier run read, with the same options."""

from __future__ import annotations

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.matching.inputs import plan_inputs
from captioner_core.options import MatchOptions
from tests.fakes import HashedWords
from tests.runs import ENCODER, change_manifest, make_run


@pytest.fixture
def run_dir(tmp_path):
    """Returns a run whose manifest lacks ``rank_by`` and ``index_splits``, as if these were new."""
    run_dir = make_run(tmp_path, images=2, failures=0)
    change_manifest(run_dir, encoder={"fingerprint": HashedWords.fingerprint})
    return run_dir


def plan(run_dir, **options):
    """Returns the inputs of an update of a run, under another run id."""
    options = {"encoder": ENCODER, "run_id": "other", **options}
    return plan_inputs(MatchOptions(update=run_dir, **options), HashedWords())


def test_an_option_that_is_newer_than_the_run_has_its_default(run_dir):
    assert plan(run_dir).previous_run == run_dir


@pytest.mark.parametrize(
    ("option", "value"),
    [("threshold", 0.5), ("top_k", 3), ("encoder", "tfidf"), ("index_splits", ("dev",))],
)
def test_an_update_may_not_change_an_option_that_decides_matches(run_dir, option, value):
    name = option.replace("_", "-")
    with pytest.raises(CaptionerError, match=f"--{name} .* differs from that of"):
        plan(run_dir, **{option: value})
