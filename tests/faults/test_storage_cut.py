"""The cable to an object store is cut while a run is written: one line, nothing incomplete, and a rerun completes."""

from __future__ import annotations

import pytest

from beam_jobs import caption_images, match_captions
from captioner_core.console.arguments import guarded
from captioner_core.io import storage
from captioner_core.options import CaptionOptions, MatchOptions
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.remote.server import BUCKET, Cable, keys, reached_at, s3_server, upload
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
TABLES = (layout.CAPTIONS, layout.FEATURES, layout.FAILURES, layout.MATCHES, layout.MATCH_SUMMARY)


@pytest.fixture
def cable(monkeypatch):
    """A cable to a server, by which captioner reaches it; a cut is noticed soon."""
    monkeypatch.setattr(storage, "_CONNECT_S", 1)
    monkeypatch.setattr(storage, "_REQUEST_S", 2)
    monkeypatch.setattr(storage, "_ATTEMPTS", 2)
    with s3_server() as port, Cable(port) as cable, reached_at(cable.port):
        cable.server_port = port
        yield cable


def run(root, model, load, images):
    """What the command line does, and its exit code."""

    def job():
        asked = CaptionOptions(images=images, output=root, model=model)
        caption_images.run(asked, load=load)
        captions = f"{root}/runs/run/captions"
        match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=root))
        return 0

    return guarded(job, "captioner run")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_is_one_line_and_the_rerun_completes(
    cable,
    photos,
    model_dir,
    load_models,
    tmp_path,
    capsys,
    share,
):
    upload(cable.server_port, photos, "photos")
    images, root = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/out"
    assert run(f"s3://{BUCKET}/whole", model_dir, load_models, images) == 0
    cable.cut_after(int(cable.sent * share))
    capsys.readouterr()
    assert run(root, model_dir, load_models, images) != 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "error: " in said.strip().splitlines()[-1]
    cable.mend()
    finished = "out/runs/run/manifest.json" in keys(cable.server_port, "out/")
    if finished:  # of the stage before: whole, or it would not be there
        assert [breach for breach in verify(f"{root}/runs/run") if "left over" not in breach] == []
    assert run(root, model_dir, load_models, images) == 0
    done = RunLayout(root, "run")
    assert verify(done.run_dir) == []
    assert_same_tables(done.run_dir, f"s3://{BUCKET}/whole/runs/run", TABLES)
