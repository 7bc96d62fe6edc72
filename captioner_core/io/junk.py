"""Recognizes files and folders that operating systems and other programs leave among a user's."""

from __future__ import annotations

_FILE_NAMES = frozenset(
    (".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)
# AppleDouble files, and files that a server keeps because a program still has them open.
_FILE_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete")
_FOLDER_NAMES = frozenset(
    (
        "__macosx",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@synoeastream",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "lost+found",
    )
)


def is_junk_file(name: str) -> bool:
    """Returns whether the operating system made a file, such as ``.DS_Store`` or ``Thumbs.db``.

    Args:
      name: the file's name, without its folder.
    """
    lower = name.lower()
    return lower in _FILE_NAMES or lower.startswith(_FILE_PREFIXES)


def is_junk_folder(name: str) -> bool:
    """Returns whether a folder is hidden, a recycle bin, or a program's own, such as ``@eaDir``.

    Args:
      name: the folder's name, without its parent folder.
    """
    return name.startswith(".") or name.lower() in _FOLDER_NAMES


def is_passed_by_readers(name: str) -> bool:
    """Returns whether Parquet readers ignore a file in a table's folder, such as ``_SUCCESS``.

    Args:
      name: the file's name, without its folder.
    """
    return name.startswith((".", "_")) or is_junk_file(name)
