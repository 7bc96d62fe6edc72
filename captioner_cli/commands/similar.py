"""``captioner similar``: the images most similar to one image."""

from __future__ import annotations

import argparse
from typing import Any

from captioner_core.options import SimilarOptions, add_arguments, from_namespace
from captioner_core.security.allowed_roots import uri_argument


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "similar",
        help="the images most similar to one image",
        description="Captions an image, finds the images with the most similar captions, and writes a picture of them.",
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
    from captioner_core.tables.schemas import MatchRow

    check_picture(options.output, {"the image": [namespace.image], "--index": options.index})
    for uri in options.index:
        check_captions_table(uri)
    has_several = len({collection_of_table(uri) for uri in options.index}) > 1

    def collection_of(row: MatchRow) -> str:
        return f" ({row.match_collection})" if has_several else ""

    finder = SimilarImageFinder(options.model, options.index, options.encoder)
    found = finder.find(namespace.image, threshold=options.threshold, top_k=options.n)
    print(escape_control_chars(f"{namespace.image}: {found.caption}"))
    for row in found.matches:
        print(
            escape_control_chars(
                f"{row.rank:3}  {row.score:.3f}  {row.match_image_id}{collection_of(row)}  {row.match_caption}"
            )
        )
    if not found.matches:
        best = found.nearest
        short = ""
        if best:
            name = best.match_image_id + collection_of(best)
            short = f"; the best, {name}, has {best.score:.3f}: {best.match_caption}"
        print(escape_control_chars(f"no other image reaches {options.threshold}{short}"))
    write_picture(found, options.output)
    print(options.output)
    return 0
