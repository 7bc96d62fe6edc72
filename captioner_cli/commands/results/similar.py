"""``captioner similar``: the images most similar to one image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captioner_core.options import SimilarOptions, add_arguments, from_namespace
from captioner_core.security.allowed_roots import uri_argument

if TYPE_CHECKING:
    from captioner_core.tables.schemas import MatchRow


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "similar",
        help="the images most similar to one image",
        description=(
            "Captions an image, finds the images with the most similar captions, and writes a "
            "picture of them."
        ),
    )
    parser.add_argument("image", type=uri_argument, metavar="IMAGE", help="image file")
    add_arguments(parser, SimilarOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(SimilarOptions, namespace)
    from captioner_core.analysis.similar_images import (
        SimilarImageFinder,
        check_picture,
        write_picture,
    )
    from captioner_core.matching.loading import check_captions_table
    from captioner_core.runs.identity import collection_of_table
    from captioner_core.security.redaction import escape_control_chars

    check_picture(options.output, {"the image": [namespace.image], "--index": options.index})
    for uri in options.index:
        check_captions_table(uri)
    finder = SimilarImageFinder(options.model, options.index, options.encoder)
    found = finder.find(namespace.image, threshold=options.threshold, top_k=options.n)
    has_several = len({collection_of_table(uri) for uri in options.index}) > 1
    lines = [f"{namespace.image}: {found.caption}"]
    for row in found.matches:
        name = _image_name(row, with_collection=has_several)
        lines.append(f"{row.rank:3}  {row.score:.3f}  {name}  {row.match_caption}")
    if not found.matches:
        best = ""
        if found.nearest:
            name = _image_name(found.nearest, with_collection=has_several)
            score = found.nearest.score
            best = f"; the best, {name}, has {score:.3f}: {found.nearest.match_caption}"
        lines.append(f"no other image reaches {options.threshold}{best}")
    for line in lines:
        print(escape_control_chars(line))
    write_picture(found, options.output)
    print(options.output)
    return 0


def _image_name(row: MatchRow, *, with_collection: bool) -> str:
    return (
        f"{row.match_image_id} ({row.match_collection})" if with_collection else row.match_image_id
    )
