"""Runs with real jobs in a real Airflow, from the REST API to the tables."""

from __future__ import annotations

import json
import subprocess

import pytest
from PIL import Image

from captioner_core.io import storage
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.live.airflow import AIRFLOW_PYTHON, wait_until
from tests.live.conftest import SCENES

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


def test_this_airflow_has_none_of_the_heavy_libraries(live):
    """These tests are valid only for an Airflow without the libraries of the jobs."""
    heavy = ("tensorflow", "apache_beam", "numpy", "pyarrow")
    code = f"import importlib.util as u; print([name for name in {heavy!r} if u.find_spec(name)])"
    done = subprocess.run([AIRFLOW_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert live.call("GET", "importErrors")["total_entries"] == 0


def test_two_concurrent_runs_on_one_folder_do_not_mix(live, scenes, tmp_path):
    conf = {"images": str(scenes), "output": str(tmp_path)}
    started = [live.trigger("caption_folder", conf) for _ in range(2)]
    assert [live.finish("caption_folder", run, 400) for run in started] == ["success", "success"]
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert not verify(str(folder))
        run_ids = storage.read_table(str(folder / "captions"))["run_id"].to_pylist()
        assert (set(run_ids), len(run_ids)) == ({folder.name}, SCENES)
    events = live.call("GET", "assets/events?limit=100")["asset_events"]
    (captioned,) = [
        e["extra"] for e in events if e["extra"].get("uri") == str(folders[0] / "captions")
    ]
    assert (captioned["captions"], captioned["failures"]) == (SCENES, 0)


def test_only_failures_retries_the_failed_images(live, tmp_path):
    images = tmp_path / "images"
    run = RunLayout(str(tmp_path / "out"), "retried")
    images.mkdir()
    (images / "bad.jpg").write_text("not an image yet")
    conf = {"images": str(images), "output": run.root, "run_id": run.run_id}
    assert live.finish("caption_folder", live.trigger("caption_folder", conf)) == "success"
    assert read_manifest(run.run_dir)["counts"]["failures"] == 1
    Image.new("RGB", (64, 48), "orange").save(images / "bad.jpg")
    retry = live.trigger("caption_folder", {**conf, "only_failures": True})
    assert live.finish("caption_folder", retry) == "success"
    counts = read_manifest(run.run_dir)["counts"]
    assert (counts["captions"], counts["failures"]) == (1, 0)


def test_bad_input_fails_at_once_and_the_log_says_why(live, tmp_path):
    hostile = f'"; touch {tmp_path}/x; echo "'
    started = live.trigger("caption_folder", {"images": hostile, "output": str(tmp_path / "out")})
    assert live.finish("caption_folder", started) == "failed"
    task = live.tasks("caption_folder", started)["extract_features"]
    assert (task["state"], task["try_number"]) == ("failed", 1), "a retry would not help"
    assert f"images folder {hostile!r} is not a folder; name one with --images" in live.log(
        "caption_folder", started, "extract_features"
    )
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "out").exists(), "before work starts"


def test_marking_a_run_failed_ends_its_job(live, scenes, tmp_path):
    started = live.trigger(
        "caption_folder", {"images": str(scenes), "output": str(tmp_path), "run_id": "marked"}
    )
    wait_until(lambda: live.processes("beam_jobs.extract_features", "--run-id=marked"), 120)
    live.call("PATCH", f"dags/caption_folder/dagRuns/{started}", {"state": "failed"})
    wait_until(lambda: not live.processes("beam_jobs.extract_features", "--run-id=marked"), 60)
    assert live.finish("caption_folder", started) == "failed"
    assert not storage.exists(RunLayout(str(tmp_path), "marked").manifest)


def test_a_worse_model_is_stopped_at_the_gate(live, tmp_path):
    """Two workers train a model; a second one hardly learns, so the first stays current."""
    conf = {"dataset": "sample", "limit": 150, "output": str(tmp_path), "epochs": 12, "workers": 2}
    started = live.trigger("train_captioner", conf)
    assert live.finish("train_captioner", started, 600) == "success"
    pointer = json.loads((tmp_path / "models" / "current.json").read_text())
    assert pointer["history"][-1]["cider"] > 0
    assert "--workers=2" in live.log("train_captioner", started, "train")
    worse = live.trigger(
        "train_captioner", {**conf, "epochs": 1, "learning_rate": 1e-6, "workers": 1}
    )
    assert live.finish("train_captioner", worse, 600) == "failed"
    states = {name: task["state"] for name, task in live.tasks("train_captioner", worse).items()}
    assert (states["evaluate"], states["gate"], states["promote"]) == (
        "success",
        "failed",
        "upstream_failed",
    )
    assert "stays current" in live.log("train_captioner", worse, "gate")
    assert json.loads((tmp_path / "models" / "current.json").read_text()) == pointer
    models = [m for m in (tmp_path / "models").iterdir() if (m / "config.json").exists()]
    assert len(models) == 2, "the rejected model is kept"
    extract = live.log("train_captioner", worse, "extract_features")
    assert "150 features" in extract
    run = {
        "images": str(tmp_path / "datasets" / "sample-150" / "images"),
        "output": str(tmp_path),
        "run_id": "current",
    }
    captioned = live.trigger("caption_folder", {**run, "model": str(tmp_path / "models")})
    assert live.finish("caption_folder", captioned, 400) == "success"
    model = read_manifest(str(tmp_path / "runs" / "current"))["model"]
    assert model["model_id"] == pointer["history"][-1]["model_id"]
