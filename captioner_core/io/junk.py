"""Files and folders that systems and programs leave among a user's files.

They are neither images of the user nor parts of a table.
"""

_FILE_NAMES = frozenset(
    (".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)
# AppleDouble files, and files that a server keeps because a program still has them open.
_FILE_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete")
_FOLDER_NAMES = frozenset(
    (
        *("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoeastream"),
        *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler"),
        *("system volume information", "network trash folder", "temporary items"),
        *("thevolumesettingsfolder", "lost+found"),
    )
)


def is_junk_file(name: str) -> bool:
    """Returns whether a system made a file for itself, such as ``.DS_Store`` or ``Thumbs.db``.

    >>> is_junk_file("THUMBS.DB"), is_junk_file("._beach.jpg"), is_junk_file("beach.jpg")
    (True, True, False)

    Args:
      name: name of the file, without its folder.
    """
    lower_name = name.lower()
    return lower_name in _FILE_NAMES or lower_name.startswith(_FILE_PREFIXES)


def is_junk_folder(name: str) -> bool:
    """Returns whether a folder is hidden, a recycle bin, or a program's own, such as ``@eaDir``.

    Args:
      name: name of the folder, without the folders above it.
    """
    return name.startswith(".") or name.lower() in _FOLDER_NAMES


def is_skipped_by_readers(name: str) -> bool:
    """Returns whether readers of Parquet skip a file in a table's folder, such as ``_SUCCESS``.

    >>> is_skipped_by_readers("_SUCCESS"), is_skipped_by_readers("part-00000.parquet")
    (True, False)

    Args:
      name: name of the file, without its folder.
    """
    return name.startswith((".", "_")) or is_junk_file(name)
