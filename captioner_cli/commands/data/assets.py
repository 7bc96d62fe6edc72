"""``captioner assets``: fetches and verifies what the jobs need."""

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "assets",
        help="fetch and verify Xception weights and spaCy vectors, verify the pretrained captioner",
        description=(
            "Fetches what is missing or damaged in the cache ($CAPTIONER_CACHE, else "
            "~/.cache/captioner). Other commands fetch what they need by themselves, unless "
            "CAPTIONER_OFFLINE=1."
        ),
    )
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        choices=("minilm",),
        help="also fetch what this optional encoder needs",
    )
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.captioning.saved_model import check_pretrained
    from captioner_core.weights import asset_cache, assets

    for asset in (*assets.ASSETS, *(assets.EXTRA_ASSETS[name] for name in namespace.extra)):
        folder, fetched = asset_cache.ensure(asset)
        print(f"{asset.title}: {'fetched' if fetched else 'verified'}, {folder}", flush=True)
    path, model_id = check_pretrained()
    print(f"pretrained captioner {model_id}: verified, {path}", flush=True)
    return 0
