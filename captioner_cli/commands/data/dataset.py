"""``captioner dataset``: makes a dataset folder."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options import check_collection
from captioner_core.security import allowed_roots, redaction, uris


def register(subparsers: Any) -> None:
    """Adds the subcommand and its kinds: ``sample``, ``flickr8k``, ``coco`` and ``csv``."""
    kinds = subparsers.add_parser(
        "dataset",
        help="make a dataset folder",
        description="Makes a folder with images/ and captions.parquet.",
    ).add_subparsers(required=True, metavar="KIND")
    _add_sample(kinds)
    _add_flickr8k(kinds)
    _add_coco(kinds)
    _add_csv(kinds)


def _add_kind(
    kinds: Any, name: str, handler: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    kind: argparse.ArgumentParser = kinds.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    kind.add_argument(
        "--output", required=True, type=_path, metavar="DIR", help="dataset folder to make"
    )
    kind.add_argument(
        "--collection",
        type=_collection,
        metavar="NAME",
        help="name of the collection that the images belong to (default: sample, flickr8k, or "
        "else a name made from the dataset's folder)",
    )
    kind.set_defaults(handler=handler)
    return kind


def _add_sample(kinds: Any) -> None:
    kind = _add_kind(kinds, "sample", _sample, "rendered scenes with five captions each")
    kind.add_argument(
        "--images", type=int, default=800, metavar="N", help="number of images (default: 800)"
    )
    kind.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="another seed makes other scenes (default: 0)",
    )


def _add_flickr8k(kinds: Any) -> None:
    text = "Flickr8k from its two zips or Kaggle's folder (default: download the zips)"
    kind = _add_kind(kinds, "flickr8k", _flickr8k, text)
    kind.add_argument(
        "--source",
        type=_path,
        metavar="DIR",
        help="folder with the two zips, or with Kaggle's Images/ and captions.txt "
        "(default: $FLICKR8K_DIR)",
    )
    _add_limit(kind)


def _add_coco(kinds: Any) -> None:
    kind = _add_kind(kinds, "coco", _coco, "captions in COCO's JSON")
    kind.add_argument(
        "--annotations",
        action="append",
        required=True,
        metavar="SPLIT=FILE",
        help="a split's captions_*.json; may be repeated",
    )
    kind.add_argument(
        "--images", required=True, type=_path, metavar="DIR", help="folder with the images"
    )
    _add_limit(kind)


def _add_csv(kinds: Any) -> None:
    kind = _add_kind(kinds, "csv", _csv, "captions in a CSV file")
    kind.add_argument(
        "--csv",
        required=True,
        type=_path,
        metavar="FILE",
        help="columns image_id, caption and maybe split, such as Kaggle's captions.txt",
    )
    kind.add_argument(
        "--images",
        type=_path,
        metavar="DIR",
        help="folder with the images (default: a dataset of captions alone, which can teach "
        "language)",
    )
    kind.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="what the owners of the data allow, for the cards of models that are trained on it",
    )
    _add_limit(kind)


def _add_limit(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--limit", type=_positive, metavar="N", help="use this many images")


def _path(text: str) -> Path:
    path = allowed_roots.uri_argument(text)
    if "://" in path:
        raise argparse.ArgumentTypeError(
            f"{path!r} is no local path, and datasets are made from and in local folders"
        )
    return Path(path)


def _collection(text: str) -> str:
    try:
        check_collection("--collection", text)
    except CaptionerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be 1 or more")
    return number


def _sample(namespace: argparse.Namespace) -> int:
    from captioner_core.datasets import sample

    return _say(
        sample.build(
            namespace.output,
            images=namespace.images,
            seed=namespace.seed,
            collection=namespace.collection,
        )
    )


def _flickr8k(namespace: argparse.Namespace) -> int:
    from captioner_core.datasets import flickr8k
    from captioner_core.process.cache_folder import cache_dir

    own = os.environ.get("FLICKR8K_DIR")
    return _say(
        flickr8k.build(
            namespace.output,
            source=namespace.source or (Path(own) if own else None),
            cache=cache_dir(),
            limit=namespace.limit,
            collection=namespace.collection,
        )
    )


def _coco(namespace: argparse.Namespace) -> int:
    from captioner_core.datasets import coco

    annotations: dict[str, list[Path]] = {}
    for item in namespace.annotations:
        split, sign, path = item.partition("=")
        if not sign:
            raise CaptionerError(
                f"--annotations {item!r} must be SPLIT=FILE, such as train=captions.json; "
                "write it so"
            )
        allowed_roots.check_uri("--annotations", path)
        annotations.setdefault(split, []).append(Path(uris.normalize_uri(path)))
    return _say(
        coco.build(
            namespace.output,
            annotations=annotations,
            images=namespace.images,
            limit=namespace.limit,
            collection=namespace.collection,
        )
    )


def _csv(namespace: argparse.Namespace) -> int:
    from captioner_core.datasets import csv_captions

    return _say(
        csv_captions.build(
            namespace.output,
            csv_file=namespace.csv,
            images=namespace.images,
            limit=namespace.limit,
            collection=namespace.collection,
            licence=namespace.licence,
        )
    )


def _say(summary: Any) -> int:
    for line in summary.lines():
        print(redaction.escape_control_chars(line))
    return 0
