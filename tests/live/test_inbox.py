"""The DAG watch_inbox in a real Airflow starts one run for each folder, once it is complete.

Folders arrive while Airflow runs and while it restarts; one of them is written slowly, and one
contains only files that are no images.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import time

import pytest
from PIL import Image

from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify
from tests.live.airflow import wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(1500)]
FOLDERS = int(os.environ.get("INBOX_FOLDERS") or 20)
HALF_WRITTEN = "folder 02"
ONLY_BAD = "folder 04"
QUIET_S = 15.0
ARRIVAL_INTERVAL_S = 4.0


class Arrivals(threading.Thread):
    """Creates folders one after the other: some end with a marker file, and one takes long.

    Args:
      inbox: the folder to create them in.
    """

    def __init__(self, inbox):
        super().__init__(daemon=True)
        self.inbox = inbox
        self.completed_at = {}
        self.image_counts = {}

    def run(self):
        """Creates all folders."""
        slow = threading.Thread(target=self._write_slowly, daemon=True)
        slow.start()
        for number in range(FOLDERS):
            name = f"folder {number:02}"
            if name != HALF_WRITTEN:
                self._create(name, number)
                time.sleep(ARRIVAL_INTERVAL_S)
        slow.join()

    def _create(self, name, number):
        """Creates one folder with two files and, for some folders, the marker file."""
        folder = self.inbox / name
        folder.mkdir()
        self.image_counts[name] = 2
        for index in range(2):
            path = folder / f"{index}.png"
            if name == ONLY_BAD:
                path.write_text("not an image")
            else:
                Image.new("RGB", (64, 48), (10 * number, 100 * index, 90)).save(path)
        if number % 2 or name == ONLY_BAD:
            (folder / "_SUCCESS").touch()
        self.completed_at[name] = time.time()

    def _write_slowly(self):
        """Writes to a folder until all others have arrived, pausing less than the quiet time."""
        folder = self.inbox / HALF_WRITTEN / "below"
        folder.mkdir(parents=True)
        count = 0
        end = time.time() + ARRIVAL_INTERVAL_S * FOLDERS + 2 * QUIET_S
        while time.time() < end:
            Image.new("RGB", (64, 48), (count, 0, 0)).save(folder / f"{count}.png")
            count += 1
            self.image_counts[HALF_WRITTEN] = count
            self.completed_at[HALF_WRITTEN] = time.time()
            time.sleep(QUIET_S / 2)


def test_every_folder_gets_one_run_after_it_is_complete(stopped, tmp_path):
    inbox = tmp_path / "inbox"
    output = tmp_path / "out"
    inbox.mkdir()
    arrivals = Arrivals(inbox)
    with stopped.running() as live:
        setting = {"inbox": str(inbox), "output": str(output), "quiet_minutes": QUIET_S / 60}
        live.call("POST", "variables", {"key": "captioner_inbox", "value": json.dumps(setting)})
        live.call("PATCH", "dags/watch_inbox", {"is_paused": False})
        arrivals.start()
        wait_until(lambda: len(live.runs("caption_folder")) >= 3, 300)
    with stopped.running() as live:  # restarted while runs are active and folders arrive
        arrivals.join()
        wait_until(lambda: len(live.runs("caption_folder")) == FOLDERS, 600)
        ids = [run["dag_run_id"] for run in live.runs("caption_folder")]
        states = [live.finish("caption_folder", run_id, 900) for run_id in ids]
        last = live.trigger("watch_inbox", {})  # finds nothing to start
        assert live.finish("watch_inbox", last) == "success"
        runs = live.runs("caption_folder")
    assert states == ["success"] * FOLDERS
    assert len(runs) == len(list((output / "runs").iterdir())) == FOLDERS
    assert len({run["conf"]["images"] for run in runs}) == FOLDERS, "no folder gets two runs"
    for run in runs:
        name = run["conf"]["images"].rpartition("/")[2]
        queued = datetime.datetime.fromisoformat(run["queued_at"]).timestamp()
        assert queued > arrivals.completed_at[name], f"{name} was queued before it was complete"
        run_dir = output / "runs" / run["conf"]["run_id"]
        assert not verify(str(run_dir))
        counts = read_manifest(str(run_dir))["counts"]
        failures = arrivals.image_counts[name] if name == ONLY_BAD else 0
        assert counts["images_found"] == arrivals.image_counts[name], name
        assert counts["failures"] == failures, name
