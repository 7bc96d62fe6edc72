"""Runs in an Azure storage account have the same rows as runs in folders.

The server is Azurite, Microsoft's emulator, which is fetched from the npm registry once.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time

import pytest

from beam_jobs import caption_images, match_captions
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import CaptionOptions, MatchOptions
from captioner_core.process.cache_folder import cache_dir
from captioner_core.report import write_report
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.ports import free_port
from tests.same_tables import assert_same_tables

AZURITE = "azurite@3.35.0"
ACCOUNT = "devstoreaccount1"
# The emulator's account and key are the same for everybody.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "photos"
ROOT = f"abfss://{CONTAINER}@{ACCOUNT}.dfs.core.windows.net"


@pytest.fixture(scope="module")
def azure():
    """An account with an empty container, which captioner finds by its connection string."""
    if not shutil.which("npm"):
        pytest.skip("npm is needed to fetch Azure's emulator")
    folder = cache_dir() / AZURITE
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        install = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", AZURITE]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
    port = free_port()
    arguments = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck"]
    connection = (
        f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            [str(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server,
    ):
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        try:
            _wait_for_server(port)
            storage.resolve(ROOT)[0].create_dir(CONTAINER)
            yield
        finally:
            server.kill()


def _wait_for_server(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def caption_and_match(images, root, model, load):
    options = CaptionOptions(
        images=str(images), collection="photos", output=str(root), run_id="run", model=model
    )
    caption_images.run(options, load=load)
    captions = (f"{root}/runs/run/captions",)
    match_captions.run(
        MatchOptions(captions=captions, index=captions, output=str(root), run_id="run")
    )


@pytest.mark.cluster
def test_a_run_in_azure_has_the_rows_of_one_in_folders(
    azure, photos, tmp_path, model_dir, load_models
):
    file_system, _ = storage.resolve(ROOT)
    for path in photos.rglob("*"):
        if path.is_file():
            name = f"{CONTAINER}/in/{path.relative_to(photos).as_posix()}"
            with file_system.open_output_stream(name) as stream:
                stream.write(path.read_bytes())
    caption_and_match(photos, tmp_path, model_dir, load_models)
    for _ in range(2):  # The second call replaces the first one's tables.
        caption_and_match(f"{ROOT}/in", f"{ROOT}/out", model_dir, load_models)
        run = RunLayout(f"{ROOT}/out", "run")
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, RunLayout(str(tmp_path), "run").run_dir)
    rows = storage.read_table(run.table(layout.CAPTIONS)).to_pylist()
    assert {row["image_uri"] for row in rows} == {f"{ROOT}/in/{row['image_id']}" for row in rows}
    report = storage.read_bytes(write_report(run.run_dir)).decode()
    assert report.count("data:image/jpeg;base64,") >= 12


@pytest.mark.parametrize("uri", ["abfss://photos/in", "abfss://photos@/in"])
def test_a_uri_without_an_account_is_refused(uri):
    with pytest.raises(CaptionerError, match="abfss://CONTAINER@ACCOUNT"):
        storage.resolve(uri)


def test_a_scheme_without_a_client_is_refused():
    with pytest.raises(CaptionerError, match=r"no client for oss; .* s3://, gs://, abfss://"):
        storage.resolve("oss://bucket/in")
