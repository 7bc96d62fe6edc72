"""Makes a folder of images that holds one split of a dataset."""

import os
from collections.abc import Iterable
from pathlib import Path

from captioner_core.datasets.sources import is_file_below, link_or_copy, safe_image_id
from captioner_core.images.image_ids import file_name_of
from captioner_core.images.listing import IMAGE_FOLDER
from captioner_core.io import outputs
from captioner_core.tables import layout


def check_split_output(dataset: Path, folder: Path, option: str) -> None:
    """Checks, before any work, that ``link_split`` may write to a folder; changes nothing.

    Args:
      dataset: the dataset folder.
      folder: the folder to check.
      option: the option that names the folder, for error messages.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(
        folder,
        kind=IMAGE_FOLDER,
        option=option,
        inputs={"--dataset": [dataset]},
        adopt=_adopt_unlisted(dataset),
    )


def link_split(dataset: Path, folder: Path, image_ids: Iterable[str]) -> None:
    """Makes a folder with some of a dataset's images, or replaces one that captioner made.

    Args:
      dataset: the dataset folder.
      folder: the folder to make.
      image_ids: ids of the images to put there; ids without a file are skipped.

    Raises:
      CaptionerError: an id leads out of the folder, or the folder holds files that captioner did
        not make.
    """
    images = dataset / layout.DATASET_IMAGES
    root = images.resolve()
    safe_ids = sorted({safe_image_id(image_id, "image id") for image_id in image_ids})
    names = [os.fsdecode(file_name_of(image_id)) for image_id in safe_ids]
    names = [name for name in names if is_file_below(images / name, root)]
    output = outputs.OutputFolder.claim(
        folder,
        kind=IMAGE_FOLDER,
        option="folder",
        inputs={"dataset": [dataset]},
        adopt=_adopt_unlisted(dataset),
    )
    output.check_no_conflicts(names)
    for name in names:
        if not (output.has_file(name) and os.path.samefile(images / name, output.path / name)):
            link_or_copy(images / name, output.stage(name))
    output.remove_all_except(names)
    for name in filter(output.is_staged, names):
        output.publish_file(name)
    output.finish()


def _adopt_unlisted(dataset: Path) -> outputs.Adopt:
    """Returns a function that recognizes split folders of versions that kept no list of files.

    Such a folder holds nothing but hard links to images of the dataset, so deleting a link loses
    no image.
    """

    def adopt(folder: Path) -> set[str] | None:
        """Returns the folder's files and subfolders, or None if it holds anything else."""
        paths: set[str] = set()
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                relative = Path(parent, name).relative_to(folder).as_posix()
                if name in folders and not (folder / relative).is_symlink():
                    paths.add(f"{relative}/")
                elif _is_hard_link(folder / relative, dataset / layout.DATASET_IMAGES / relative):
                    paths.add(relative)
                else:
                    return None
        return paths

    return adopt


def _is_hard_link(path: Path, other: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except OSError:
        return False
