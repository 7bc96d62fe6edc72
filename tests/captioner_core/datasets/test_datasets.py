"""Dataset folders from each kind of source.

A dataset is complete or absent, no file lies outside its folder, and what is left out is counted.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from captioner_cli.main import main
from captioner_core.datasets import coco, csv_captions, flickr8k, is_built, link_split, sample
from captioner_core.datasets.scene import Scene
from captioner_core.datasets.sources import limit_images, safe_image_id
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.tables.schemas import DATASET_CAPTIONS_SCHEMA
from captioner_core.text.vocabulary import tokenize
from tests.image_files import encoded, picture
from tests.scenes import names_both_objects

JPEG = encoded(picture(), "JPEG")


def captions_of(folder):
    """Returns the captions table of a dataset as a pandas frame."""
    return storage.read_table(str(folder / "captions.parquet")).to_pandas()


def images_of(folder):
    """Returns the paths of a dataset's image files below its images folder."""
    return {
        path.relative_to(folder / "images").as_posix()
        for path in (folder / "images").rglob("*")
        if path.is_file()
    }


# --- The sample


def test_the_sample_has_five_captions_an_image_and_three_splits(tmp_path):
    summary = sample.build(tmp_path, images=60)
    frame = captions_of(tmp_path)
    assert storage.open_table(str(tmp_path / "captions.parquet")).schema.equals(
        DATASET_CAPTIONS_SCHEMA
    )
    assert summary.images == {"train": 48, "dev": 6, "test": 6}
    assert set(frame.image_id) == images_of(tmp_path)
    assert (frame.groupby("image_id").caption.nunique() == 5).all()
    assert (frame.groupby("image_id").split.nunique() == 1).all(), "no image is in two splits"
    with Image.open(tmp_path / "images" / "scene-00000.jpg") as image:
        assert image.format == "JPEG"


def test_the_sample_depends_on_the_seed_alone(tmp_path):
    for folder, seed in (("one", 0), ("two", 0), ("other", 1)):
        sample.build(tmp_path / folder, images=30, seed=seed)
    image = "images/scene-00007.jpg"
    assert (tmp_path / "one" / image).read_bytes() == (tmp_path / "two" / image).read_bytes()
    assert (tmp_path / "one" / image).read_bytes() != (tmp_path / "other" / image).read_bytes()
    assert captions_of(tmp_path / "one").equals(captions_of(tmp_path / "two"))
    assert not captions_of(tmp_path / "one").equals(captions_of(tmp_path / "other"))


def test_captions_tell_the_sample_images_apart():
    """Scenes differ, and every caption names both kinds of object and their colours."""
    scenes = {sample.make_scene(index) for index in range(300)}
    assert len(scenes) > 290
    for index in range(300):
        scene = sample.make_scene(index)
        for caption in sample.write_captions(index):
            assert names_both_objects(caption, scene), caption
            assert {scene.colour, scene.second_colour} <= set(tokenize(caption))


def test_a_caption_that_lacks_an_object_is_recognized():
    scene = Scene("beach", "dog", "red", 2, "ball", "blue", "left")
    assert names_both_objects("Two dogs beside a ball .", scene)
    assert not names_both_objects("two dogs on the beach", scene)
    assert not names_both_objects("a hotdog and a football", scene)


@pytest.mark.parametrize(("images", "seed"), [(29, 0), (100_001, 0), (30, -1)])
def test_the_sample_refuses_options_out_of_range(tmp_path, images, seed):
    with pytest.raises(CaptionerError):
        sample.build(tmp_path / "dataset", images=images, seed=seed)
    assert not (tmp_path / "dataset").exists()


# --- What all kinds of source share


def test_an_interrupted_build_leaves_the_older_dataset_complete(tmp_path, monkeypatch):
    sample.build(tmp_path, images=40)
    assert is_built(tmp_path, sample.options(40))
    assert not is_built(tmp_path, sample.options(41)), "built with other options"

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample, "write_captions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sample.build(tmp_path, images=30)
    assert is_built(tmp_path, sample.options(40))
    assert len(images_of(tmp_path)) == 40
    sample.build(tmp_path, images=30)
    assert is_built(tmp_path, sample.options(30))
    assert len(images_of(tmp_path)) == 30, "images of the older dataset are deleted"


def test_a_split_folder_holds_the_split_and_nothing_else(tmp_path):
    sample.build(tmp_path / "dataset", images=30)
    folder = tmp_path / "new"
    link_split(tmp_path / "dataset", folder, ["scene-00009.jpg", "scene-00019.jpg"])
    link_split(tmp_path / "dataset", folder, ["scene-00019.jpg", "scene-00029.jpg"])
    names = [".captioner-files", "scene-00019.jpg", "scene-00029.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with pytest.raises(CaptionerError, match="outside"):
        link_split(tmp_path / "dataset", folder, ["../captions.parquet"])


def test_the_limit_keeps_every_split(tmp_path):
    splits = {f"{n}.jpg": "train" if n < 90 else "dev" if n < 98 else "test" for n in range(100)}
    for limit in (3, 10, 50, 99):
        kept = limit_images(splits, limit)
        assert len(kept) == limit
        assert set(kept.values()) == {"train", "dev", "test"}
    assert limit_images(splits, 20).items() <= limit_images(splits, 40).items(), (
        "a higher limit only adds images here"
    )
    with pytest.raises(CaptionerError, match="limit 2"):
        limit_images(splits, 2)


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "..\\x.jpg", ""]
)
def test_names_that_would_leave_their_folder_are_refused(name):
    with pytest.raises(CaptionerError, match="outside its folder"):
        safe_image_id(name, "entry")


# --- Flickr8k


def write_flickr8k(folder: Path, *, entries=(), lists=("train", "dev", "test"), link=False) -> Path:
    """Writes two zips in the form of Flickr8k's and returns their folder.

    They hold ten images with captions, one image without a caption, and one caption without its
    image.

    Args:
      folder: the folder to write to.
      entries: names of further images in the zip of images.
      lists: splits whose list is in the zip of texts.
      link: whether the zip of images contains a symbolic link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{n:03d}.jpg" for n in range(10)]
    lines = [f"{name}#{k}\tA dog number {k} ." for name in names for k in range(5)]
    lines += ["missing.jpg#0\tA cat .", "a line that is no caption"]
    with zipfile.ZipFile(folder / flickr8k.TEXT_ZIP, "w") as archive:
        archive.writestr("Flickr8k.token.txt", "\n".join(lines))
        parts = {"train": [*names[:6], "missing.jpg"], "dev": names[6:8], "test": names[8:]}
        for split in lists:
            archive.writestr(f"Flickr_8k.{split}Images.txt", "\n".join(parts[split]))
        archive.writestr("__MACOSX/._Flickr8k.token.txt", "no")
    with zipfile.ZipFile(folder / flickr8k.IMAGES_ZIP, "w") as archive:
        for name in [*names, "silent.jpg"]:
            archive.writestr(f"Flicker8k_Dataset/{name}", JPEG)
        for entry in entries:
            archive.writestr(entry, JPEG)
        if link:
            info = zipfile.ZipInfo("Flicker8k_Dataset/link.jpg")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return folder


def test_flickr8k_keeps_its_own_splits_and_counts_what_is_missing(tmp_path):
    source = write_flickr8k(tmp_path / "zips")
    summary = flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)
    assert summary.images == {"train": 6, "dev": 2, "test": 2}
    assert summary.captions == 50
    text = "\n".join(summary.lines())
    assert "left out 1 captions without their image" in text
    assert "left out 1 images without a caption" in text
    assert "left out 1 lines that are no caption" in text
    assert images_of(tmp_path / "out") == {f"{n:03d}.jpg" for n in range(10)}
    assert captions_of(tmp_path / "out").caption_index.tolist()[:5] == [0, 1, 2, 3, 4]


def test_flickr8k_counts_a_missing_list(tmp_path):
    source = write_flickr8k(tmp_path / "zips", lists=("train", "dev"))
    summary = flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)
    assert summary.images == {"train": 6, "dev": 2}
    assert any("missing list Flickr_8k.testImages.txt" in line for line in summary.lines())


@pytest.mark.parametrize(
    "entry", ["../evil.jpg", "/tmp/evil.jpg", "Flicker8k_Dataset/../../evil.jpg", "..\\evil.jpg"]
)
def test_a_zip_entry_that_would_land_outside_is_refused(tmp_path, entry):
    source = write_flickr8k(tmp_path / "zips", entries=[entry])
    with pytest.raises(CaptionerError, match="outside its folder"):
        flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)
    assert not list(tmp_path.rglob("evil*"))
    assert not is_built(tmp_path / "out", flickr8k.options())


def test_a_link_in_a_zip_is_refused(tmp_path):
    source = write_flickr8k(tmp_path / "zips", link=True)
    with pytest.raises(CaptionerError, match="is a link"):
        flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)


def test_a_zip_that_is_missing_or_damaged_is_an_error(tmp_path):
    source = write_flickr8k(tmp_path / "zips")
    data = (source / flickr8k.IMAGES_ZIP).read_bytes()
    (source / flickr8k.IMAGES_ZIP).write_bytes(data[: len(data) // 2])
    with pytest.raises(CaptionerError, match="damaged"):
        flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)
    (source / flickr8k.IMAGES_ZIP).unlink()
    with pytest.raises(CaptionerError, match=flickr8k.IMAGES_ZIP):
        flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)


@pytest.mark.skipif(not os.environ.get("FLICKR8K_DIR"), reason="FLICKR8K_DIR names no Flickr8k")
def test_the_real_flickr8k(tmp_path):
    summary = flickr8k.build(
        tmp_path, source=Path(os.environ["FLICKR8K_DIR"]), cache=tmp_path, limit=40
    )
    frame = captions_of(tmp_path)
    assert sum(summary.images.values()) == 40
    assert set(frame.image_id) == images_of(tmp_path)
    assert (frame.groupby("image_id").size() == 5).all()


# --- COCO and CSV


@pytest.fixture
def photos(tmp_path):
    """A folder of four images, one of them in a subfolder."""
    folder = tmp_path / "photos"
    for name in ("a.jpg", "sub/b.jpg", "c.jpg", "silent.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG)
    return folder


def coco_json(path, names, annotations):
    """Writes a JSON file of COCO captions: image names, and pairs of image number and caption."""
    value = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": image, "caption": text} for image, text in annotations],
    }
    path.write_text(json.dumps(value))
    return path


def test_coco_captions_are_paired_with_images_and_the_rest_is_counted(tmp_path, photos):
    train = coco_json(
        tmp_path / "t.json",
        ["a.jpg", "sub/b.jpg"],
        [(0, "a dog"), (0, "one dog\n"), (1, "a cat"), (7, "x")],
    )
    dev = coco_json(tmp_path / "d.json", ["c.jpg", "missing.jpg"], [(0, "a bird"), (1, "nothing")])
    summary = coco.build(tmp_path / "out", annotations={"train": train, "dev": dev}, images=photos)
    frame = captions_of(tmp_path / "out")
    assert summary.images == {"train": 2, "dev": 1}
    assert frame[frame.image_id == "a.jpg"].caption.tolist() == ["a dog", "one dog"]
    assert images_of(tmp_path / "out") == {"a.jpg", "sub/b.jpg", "c.jpg"}
    text = "\n".join(summary.lines())
    assert "1 captions without their image" in text
    assert "1 images without a caption" in text
    assert "1 annotations without text or of no listed image" in text


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"images": [{}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": 7}], "annotations": []}',
    ],
)
def test_json_of_another_form_is_refused(tmp_path, photos, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CaptionerError, match="no COCO captions JSON"):
        coco.build(tmp_path / "out", annotations={"train": tmp_path / "x.json"}, images=photos)


def test_coco_captions_without_text_are_left_out(tmp_path, photos):
    """JSON can hold half a character, which no table can store, and null is not a caption."""
    source = coco_json(
        tmp_path / "x.json",
        ["a.jpg", "\udcff.jpg"],
        [(0, "a \ud800 dog"), (0, None), (1, "x"), (0, "a")],
    )
    summary = coco.build(tmp_path / "out", annotations={"train": source}, images=photos)
    assert captions_of(tmp_path / "out").caption.tolist() == ["a"]
    assert "3 annotations without text or of no listed image" in "\n".join(summary.lines())


def test_a_caption_of_an_impossibly_long_name_has_no_image(tmp_path, photos):
    (tmp_path / "x.csv").write_text(
        f"image_id,caption\na.jpg,a dog\n{'x' * 300},a cat\n{'x/' * 5000},a bird\n"
    )
    summary = csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=photos)
    assert captions_of(tmp_path / "out").image_id.tolist() == ["a.jpg"]
    assert "2 captions without their image" in "\n".join(summary.lines())


def test_coco_file_names_stay_below_the_images(tmp_path, photos):
    bad = coco_json(tmp_path / "x.json", ["../secret.jpg"], [(0, "a dog")])
    with pytest.raises(CaptionerError, match="outside its folder"):
        coco.build(tmp_path / "out", annotations={"train": bad}, images=photos)


def test_csv_captions_are_paired_with_images_and_the_rest_is_counted(tmp_path, photos):
    text = (
        '\ufeffimage,caption,split\na.jpg,"a dog, running",train\nsub/b.jpg,a cat,dev\n'
        "c.jpg,,train\nnone.jpg,x,test\n"
    )
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    summary = csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=photos)
    frame = captions_of(tmp_path / "out")
    assert dict(zip(frame.image_id, frame.caption, strict=True)) == {
        "a.jpg": "a dog, running",
        "sub/b.jpg": "a cat",
    }
    assert summary.images == {"train": 1, "dev": 1}
    assert any("1 lines without image or caption" in line for line in summary.lines())


def test_without_a_split_column_an_image_always_gets_the_same_split(tmp_path, photos):
    for name, extra in (("one", ""), ("two", "silent.jpg,a hush\n")):
        (tmp_path / "x.csv").write_text(f"image_id,caption\na.jpg,a dog\nsub/b.jpg,a cat\n{extra}")
        csv_captions.build(tmp_path / name, csv_file=tmp_path / "x.csv", images=photos)
    one, two = (
        dict(captions_of(tmp_path / name)[["image_id", "split"]].to_numpy())
        for name in ("one", "two")
    )
    assert one.items() <= two.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "needs image_id and caption"),
        ("", "needs image_id and caption"),
        ("image_id,caption,split\na.jpg,x,holdout\n", "line 2: split 'holdout'"),
        ("image_id,caption\n../a.jpg,x\n", "outside its folder"),
        ("image_id,caption\nnone.jpg,x\n", "no image has both"),
    ],
)
def test_a_csv_file_without_usable_captions_is_an_error(tmp_path, photos, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(CaptionerError, match=message):
        csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=photos)


def test_a_csv_file_without_images_makes_a_dataset_of_captions_alone(tmp_path, photos, capsys):
    (tmp_path / "x.csv").write_text("image_id,caption,split\na.jpg,a dog,train\nx,a cat,train\n")
    command = ["dataset", "csv", f"--csv={tmp_path / 'x.csv'}", f"--output={tmp_path / 'out'}"]
    assert main([*command, f"--images={photos}"]) == 0
    assert images_of(tmp_path / "out") == {"a.jpg"}
    assert main(command) == 0
    frame = captions_of(tmp_path / "out")
    assert frame.caption.tolist() == ["a dog", "a cat"]
    assert frame.image_sha256.tolist() == ["", ""]
    assert not list((tmp_path / "out").rglob("*.jpg")), "the images of the earlier dataset are gone"
    assert main([*command, "--limit", "1"]) == 0
    assert len(captions_of(tmp_path / "out")) == 1


def test_an_image_behind_a_link_out_of_the_folder_is_not_used(tmp_path, photos):
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "x.csv").write_text("image_id,caption\na.jpg,a dog\nlink.jpg,a secret\n")
    csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=photos)
    assert images_of(tmp_path / "out") == {"a.jpg"}


def test_the_commands_build_datasets_and_report_errors(tmp_path, photos, capsys):
    (tmp_path / "x.csv").write_text("image_id,caption\na.jpg,a dog\n")
    out = str(tmp_path / "out")
    csv_options = ["--csv", str(tmp_path / "x.csv"), "--images", str(photos)]
    assert main(["dataset", "csv", *csv_options, "--output", out]) == 0
    assert "1 images" in capsys.readouterr().out
    assert main(["dataset", "sample", "--images", "30", "--output", out]) == 0
    coco_options = ["--annotations", "x.json", "--images", str(photos)]
    assert main(["dataset", "coco", *coco_options, "--output", out]) == 2
    assert "SPLIT=FILE" in capsys.readouterr().err
