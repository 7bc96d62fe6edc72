"""Containment of names and paths, judged by their text alone: links are not resolved here."""


def has_path_prefix(path: str, prefix: str) -> bool:
    """Returns whether a normalized path or URI is equal to another one or lies below it.

    >>> has_path_prefix("/data/photos/a.jpg", "/data/photos"), has_path_prefix("/data2", "/data")
    (True, False)
    """
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def stays_below(name: str) -> bool:
    """Returns whether a name, joined to a folder, names something below that folder.

    >>> stays_below("day1/a.jpg"), stays_below("../a.jpg"), stays_below("/etc/passwd")
    (True, False, False)
    """
    return (
        bool(name) and not name.startswith("/") and "\0" not in name and ".." not in name.split("/")
    )
