"""The connection to an object store is cut while a run is written.

The command must print one line and must not leave an incomplete run that looks complete. When
the connection works again, the next run must equal an undisturbed one.
"""

from __future__ import annotations

import contextlib

import pytest

from beam_jobs import caption_images, match_captions
from captioner_core.io import storage
from captioner_core.options import CaptionOptions, MatchOptions
from captioner_core.process.program import guarded
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.remote.server import BUCKET, Cable, keys, reached_at, s3_server, upload
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
TABLES = (layout.CAPTIONS, layout.FEATURES, layout.FAILURES, layout.MATCHES, layout.MATCH_SUMMARY)


@pytest.fixture
def cable():
    """Returns a connection to a server that captioner uses."""
    with s3_server() as port, Cable(port) as cable, reached_at(cable.port):
        yield cable


@contextlib.contextmanager
def short_timeouts():
    """Lets captioner give up on the server within seconds while the block runs.

    Only a run whose connection is cut may use these timeouts. A busy machine can take longer to
    answer an undisturbed run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "CONNECT_TIMEOUT_S", 1)
        patch.setattr(storage, "REQUEST_TIMEOUT_S", 2)
        patch.setattr(storage, "ATTEMPTS", 2)
        storage.forget_clients()
        yield
    storage.forget_clients()


def run(root, model, load, images):
    """Captions and matches as ``captioner run`` does; returns the exit code."""

    def job():
        options = CaptionOptions(images=images, output=root, model=model)
        caption_images.run(options, load=load)
        captions = f"{root}/runs/run/captions"
        match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=root))
        return 0

    return guarded(job, "captioner run")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_connection_is_an_error_of_one_line_and_the_next_run_completes(
    cable,
    photos,
    model_dir,
    load_models,
    tmp_path,
    capsys,
    share,
):
    upload(cable.server_port, photos, "photos")
    images = f"s3://{BUCKET}/photos"
    root = f"s3://{BUCKET}/out"
    assert run(f"s3://{BUCKET}/undisturbed", model_dir, load_models, images) == 0
    cable.cut_after(int(cable.sent * share))
    capsys.readouterr()
    with short_timeouts():
        assert run(root, model_dir, load_models, images) != 0
    output = capsys.readouterr().err
    assert "Traceback" not in output
    assert "error: " in output.strip().splitlines()[-1]
    cable.repair()
    has_manifest = "out/runs/run/manifest.json" in keys(cable.server_port, "out/")
    if has_manifest:  # then it is the manifest of a complete earlier stage
        assert [error for error in verify(f"{root}/runs/run") if "left over" not in error] == []
    assert run(root, model_dir, load_models, images) == 0
    run_dir = RunLayout(root, "run").run_dir
    assert verify(run_dir) == []
    assert_same_tables(run_dir, f"s3://{BUCKET}/undisturbed/runs/run", TABLES)
