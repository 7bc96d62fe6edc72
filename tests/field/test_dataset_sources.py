"""Datasets from COCO, Flickr8k and Kaggle as users have them.

The sources have other names of splits, byte-order marks or old line ends, or are the wrong file.
Each is read correctly or refused with a message that names the mistake.
"""

from __future__ import annotations

import codecs
import json
import zipfile

import pytest

from captioner_cli.main import main
from captioner_core.datasets import coco, csv_captions, flickr8k
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from tests.image_files import encoded, picture

JPEG = encoded(picture(), "JPEG")
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.fixture
def images(tmp_path):
    """Returns a folder of four images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(JPEG)
    return folder


def captions_of(folder):
    """Returns the captions and the split of each image of a dataset."""
    frame = storage.read_table(str(folder / "captions.parquet")).to_pandas()
    return {
        name: (group.caption.tolist(), group.split.iloc[0])
        for name, group in frame.groupby("image_id")
    }


def coco_file(
    path, images=((0, "a.jpg"), (1, "b.jpg")), annotations=((0, "a dog"), (1, "a cat")), **more
):
    """Writes a COCO file of captions and returns its path.

    Args:
      path: path of the file.
      images: pairs of an id and a file name.
      annotations: pairs of an image's id and a caption.
      more: further entries of the JSON object.
    """
    value = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [
            {"id": 9, "image_id": number, "caption": caption} for number, caption in annotations
        ],
        **more,
    }
    path.write_text(json.dumps(value))
    return path


# --- COCO

BOXES = {
    "id": 1,
    "image_id": 0,
    "category_id": 18,
    "bbox": [1, 2, 3, 4],
    "segmentation": [],
    "area": 12.0,
}
WRONG_FILES = {
    "instances": ([BOXES], "boxes or outlines"),
    "keypoints": ([{**BOXES, "keypoints": [1, 2, 2], "num_keypoints": 1}], "boxes or outlines"),
    "panoptic": ([{"image_id": 0, "file_name": "a.png", "segments_info": []}], "boxes or outlines"),
    "neither": ([{"image_id": 0, "question": "what?"}], "have no 'caption'"),
}


@pytest.mark.parametrize(("annotations", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_coco_file_without_captions_is_refused_by_its_kind(
    tmp_path, images, annotations, message, capsys
):
    source = coco_file(tmp_path / "instances_val2017.json", annotations=(), categories=[])
    value = json.loads(source.read_text())
    source.write_text(json.dumps({**value, "annotations": annotations}))
    command = ["dataset", "coco", "--annotations", f"val={source}", "--images", str(images)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "KeyError" not in line
    if "boxes" in message:
        assert "captions_" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, "caption": "a dog"}]', "results"),
        ('{"images": []}', "no 'annotations'"),
        ('{"annotations": []}', "no 'images'"),
        ('{"images": {}, "annotations": []}', "no list of objects"),
        ('{"images": [1], "annotations": []}', "no list of objects"),
        ('{"images": [{"id": [1], "file_name": "a.jpg"}], "annotations": []}', "no 'id'"),
        ("not JSON", "not JSON"),
    ],
)
def test_json_that_is_no_coco_file_is_refused_with_what_it_lacks(tmp_path, images, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CaptionerError, match="no COCO captions JSON") as caught:
        coco.build(tmp_path / "out", annotations={"train": tmp_path / "x.json"}, images=images)
    assert message in str(caught.value)


def test_annotations_without_a_caption_are_left_out_and_counted(tmp_path, images):
    source = coco_file(tmp_path / "x.json")
    value = json.loads(source.read_text())
    value["annotations"] += [BOXES, {**BOXES, "image_id": [1]}]
    source.write_text(json.dumps(value))
    summary = coco.build(tmp_path / "out", annotations={"train": source}, images=images)
    assert summary.left_out["annotations without text or of no listed image"] == 2
    assert summary.captions == 2


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE], ids=["UTF-8", "UTF-16"])
def test_json_with_a_byte_order_mark_is_read(tmp_path, images, mark):
    source = coco_file(tmp_path / "x.json")
    encoding = "utf-8" if mark == codecs.BOM_UTF8 else "utf-16-le"
    source.write_bytes(mark + source.read_text().encode(encoding))
    assert coco.build(tmp_path / "out", annotations={"train": source}, images=images).captions == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("val", "dev"),
        ("valid", "dev"),
        ("validation", "dev"),
        ("VAL", "dev"),
        ("restval", "train"),
        ("test", "test"),
    ],
)
def test_other_names_of_splits_are_accepted(tmp_path, images, name, split):
    source = coco_file(tmp_path / "x.json")
    assert coco.build(tmp_path / "out", annotations={name: source}, images=images).images == {
        split: 2
    }


def test_an_unknown_split_is_refused(tmp_path, images):
    with pytest.raises(CaptionerError, match="'holdout' is not one of train, dev"):
        coco.build(
            tmp_path / "out", annotations={"holdout": coco_file(tmp_path / "x.json")}, images=images
        )


def test_files_of_one_split_are_joined(tmp_path, images):
    one = coco_file(tmp_path / "one.json", [(0, "a.jpg")], [(0, "a dog")])
    two = coco_file(tmp_path / "two.json", [(0, "b.jpg")], [(0, "a cat")])
    three = coco_file(tmp_path / "three.json", [(0, "c.jpg")], [(0, "a bird")])
    files = [f"train={one}", f"train={two}", f"restval={three}"]
    options = [word for file in files for word in ("--annotations", file)]
    assert (
        main(
            [
                "dataset",
                "coco",
                *options,
                "--images",
                str(images),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert captions_of(tmp_path / "out") == {
        "a.jpg": (["a dog"], "train"),
        "b.jpg": (["a cat"], "train"),
        "c.jpg": (["a bird"], "train"),
    }


def test_an_image_in_two_splits_is_refused(tmp_path, images):
    one, two = (coco_file(tmp_path / f"{name}.json") for name in ("one", "two"))
    with pytest.raises(
        CaptionerError, match=r"image 'a.jpg' is in split 'dev' here and in 'train'"
    ):
        coco.build(tmp_path / "out", annotations={"train": one, "val": two}, images=images)


def test_an_id_of_two_images_is_refused(tmp_path, images):
    source = coco_file(tmp_path / "x.json", images=[(0, "a.jpg"), (0, "b.jpg")])
    with pytest.raises(CaptionerError, match=r"'a.jpg' and 'b.jpg' have the same id 0"):
        coco.build(tmp_path / "out", annotations={"train": source}, images=images)


def test_ids_that_match_no_image_are_named(tmp_path, images):
    source = coco_file(tmp_path / "x.json", annotations=[("0", "a dog"), ("1", "a cat")])
    with pytest.raises(
        CaptionerError, match=r"no caption is of a listed image: '0' is not among .* such as 0"
    ):
        coco.build(tmp_path / "out", annotations={"train": source}, images=images)


def test_line_separators_within_captions_become_spaces(tmp_path, images):
    source = coco_file(
        tmp_path / "x.json", annotations=[(0, "a\ndog\u2028runs\r\n"), (1, "\x85\n")]
    )
    coco.build(tmp_path / "out", annotations={"train": source}, images=images)
    assert captions_of(tmp_path / "out") == {"a.jpg": (["a dog runs"], "train")}


# --- Sources in which no image has both a file and a caption


def test_the_message_names_an_image_of_a_caption_and_a_file(tmp_path, images):
    source = coco_file(
        tmp_path / "x.json",
        images=[(0, "COCO_val2014_000000000042.jpg")],
        annotations=[(0, "a dog")],
    )
    with pytest.raises(CaptionerError, match="no image has both a file and a caption") as caught:
        coco.build(tmp_path / "out", annotations={"val": source}, images=images)
    assert "'COCO_val2014_000000000042.jpg'" in str(caught.value)
    assert "'a.jpg'" in str(caught.value)
    assert str(images) in str(caught.value)


def test_the_message_names_the_folder_that_holds_the_images(tmp_path, images):
    (tmp_path / "x.csv").write_text("image,caption\nnone.jpg,x\na.jpg,a dog\n")
    with pytest.raises(CaptionerError) as caught:
        csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=tmp_path)
    assert "the captions name 'a.jpg'" in str(caught.value)
    assert f"name {str(images)!r} as the images' folder" in str(caught.value)


def test_the_message_says_that_there_are_no_captions_or_no_images(tmp_path, images):
    (tmp_path / "x.csv").write_text("image,caption\n")
    with pytest.raises(CaptionerError, match="holds no caption of an image"):
        csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=images)
    (tmp_path / "x.csv").write_text("image,caption\na.jpg,a dog\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CaptionerError, match=r"the captions name 'a.jpg', but .*empty' holds no images"
    ):
        csv_captions.build(tmp_path / "out", csv_file=tmp_path / "x.csv", images=tmp_path / "empty")


# --- Flickr8k


def write_zips(folder, tokens: bytes, lists: dict[str, bytes]):
    """Writes the two zip files of Flickr8k with four images, and returns their folder.

    Args:
      folder: the folder for the files.
      tokens: content of the file of captions.
      lists: content of the list of images of each split.
    """
    with zipfile.ZipFile(folder / flickr8k.TEXT_ZIP, "w") as archive:
        archive.writestr("Flickr8k.token.txt", tokens)
        for split, data in lists.items():
            archive.writestr(f"Flickr_8k.{split}Images.txt", data)
    with zipfile.ZipFile(folder / flickr8k.IMAGES_ZIP, "w") as archive:
        for name in NAMES:
            archive.writestr(f"Flicker8k_Dataset/{name}", JPEG)
    return folder


LISTS = {"train": b"a.jpg\nb.jpg\n", "dev": b"c.jpg\n", "test": b"d.jpg\n"}
TOKENS = "".join(f"{name}#{number}\tA dog {number} .\n" for name in NAMES for number in range(2))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_flickr8k_files_with_a_byte_order_mark_are_read(tmp_path, encoding):
    lists = {split: data.decode().encode(encoding) for split, data in LISTS.items()}
    write_zips(tmp_path, TOKENS.encode(encoding), lists)
    summary = flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path)
    assert summary.images == {"train": 2, "dev": 1, "test": 1}
    assert summary.captions == 8
    assert captions_of(tmp_path / "out")["a.jpg"] == (["A dog 0 .", "A dog 1 ."], "train")


def test_line_separators_within_flickr8k_captions_become_spaces(tmp_path):
    tokens = "a.jpg#0\tA dog\u2028runs\x0cfast\r.\r\nc.jpg#0\tA cat .\r\nd.jpg#0\tA bird .\r\n"
    write_zips(tmp_path, tokens.encode(), LISTS)
    summary = flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path)
    assert captions_of(tmp_path / "out")["a.jpg"] == (["A dog runs fast ."], "train")
    assert summary.captions == 3
    assert "lines that are no caption" not in summary.left_out


def test_flickr8k_files_with_old_line_ends_are_read(tmp_path):
    lists = {split: data.replace(b"\n", b"\r") for split, data in LISTS.items()}
    write_zips(tmp_path, TOKENS.replace("\n", "\r").encode(), lists)
    assert flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path).captions == 8


def test_zips_of_different_images_are_refused_with_an_example(tmp_path):
    write_zips(tmp_path, b"x.jpg#0\tA dog .\n", {"train": b"x.jpg\n"})
    with pytest.raises(
        CaptionerError, match=r"both a file and a caption: the captions name 'x.jpg', .* 'a.jpg'"
    ):
        flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path)


def kaggle(folder, lists=()):
    """Writes Flickr8k as Kaggle offers it: Images/ and captions.txt, a CSV file.

    Args:
      folder: the folder, which must not exist.
      lists: the splits whose lists of images are added.

    Returns:
      The same folder.
    """
    (folder / "Images").mkdir(parents=True)
    for name in NAMES:
        (folder / "Images" / name).write_bytes(JPEG)
    rows = [
        f'{name},"A dog , running , number {number} ."\n{name},A dog runs .'
        for number, name in enumerate(NAMES)
    ]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *rows]) + "\n")
    for split in lists:
        (folder / f"Flickr_8k.{split}Images.txt").write_bytes(LISTS[split])
    return folder


def test_the_folder_from_kaggle_is_read_as_flickr8k(tmp_path, capsys):
    source = kaggle(tmp_path / "archive")
    assert (
        main(["dataset", "flickr8k", "--source", str(source), "--output", str(tmp_path / "out")])
        == 0
    )
    assert "dataset flickr8k-kaggle: 4 images" in capsys.readouterr().out, (
        "the name says that the splits are not those of Flickr8k"
    )
    captions_found = captions_of(tmp_path / "out")
    assert {name: captions for name, (captions, _) in captions_found.items()} == {
        name: [f"A dog , running , number {number} .", "A dog runs ."]
        for number, name in enumerate(NAMES)
    }


def test_lists_of_splits_in_the_folder_from_kaggle_are_used(tmp_path):
    source = kaggle(tmp_path / "archive", lists=("train", "dev", "test"))
    summary = flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)
    assert (summary.name, summary.images) == ("flickr8k", {"train": 2, "dev": 1, "test": 1})
    for name, (_, split) in captions_of(tmp_path / "out").items():
        assert name.encode() in LISTS[split]


def test_captions_from_kaggle_are_also_read_as_a_csv_file(tmp_path):
    source = kaggle(tmp_path / "archive")
    summary = csv_captions.build(
        tmp_path / "out", csv_file=source / "captions.txt", images=source / "Images"
    )
    assert summary.captions == 8


def test_captions_from_kaggle_with_a_stray_comma_are_refused_with_the_line(tmp_path):
    source = kaggle(tmp_path / "archive")
    with (source / "captions.txt").open("a") as file:
        file.write("d.jpg,A dog , running\n")
    with pytest.raises(CaptionerError, match=r"captions.txt, line 10: 3 fields"):
        flickr8k.build(tmp_path / "out", source=source, cache=tmp_path)


def test_a_folder_of_neither_form_is_refused_with_both_forms(tmp_path):
    with pytest.raises(
        CaptionerError,
        match=r"Flickr8k_text.zip is not in .*nor are Kaggle's Images/ and captions.txt",
    ):
        flickr8k.build(tmp_path / "out", source=tmp_path, cache=tmp_path)
