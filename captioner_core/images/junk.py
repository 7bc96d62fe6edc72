"""Files and folders that systems and programs put among a user's: no image of theirs, and no table."""

from __future__ import annotations

_FILE_NAMES = frozenset(
    (".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)
_FILE_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete")
"""Of AppleDouble files, and of files that a server keeps since a program has them open."""
_FOLDER_NAMES = frozenset(
    (
        *("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoeastream"),
        *(
            "#recycle",
            "#snapshot",
            "~snapshot",
            "$recycle.bin",
            "recycler",
            "system volume information",
        ),
        *("network trash folder", "temporary items", "thevolumesettingsfolder", "lost+found"),
    )
)


def is_junk_file(name: str) -> bool:
    """Returns whether a file is a system's own, such as ``.DS_Store``, ``._IMG_1.jpg`` or ``Thumbs.db``.

    Args:
      name: the file's name, without its folder.
    """
    lowered = name.lower()
    return lowered in _FILE_NAMES or lowered.startswith(_FILE_PREFIXES)


def is_junk_folder(name: str) -> bool:
    """Returns whether a folder is hidden, a wastebasket or a program's own, such as ``@eaDir`` or ``__MACOSX``.

    Args:
      name: the folder's name, without the folder that it is in.
    """
    return name.startswith(".") or name.lower() in _FOLDER_NAMES


def is_passed_by_readers(name: str) -> bool:
    """Returns whether readers of Parquet pass over a file in a table's folder, such as ``_SUCCESS`` or ``._part-0``.

    Args:
      name: the file's name, without its folder.
    """
    return name.startswith((".", "_")) or is_junk_file(name)
