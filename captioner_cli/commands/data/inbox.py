"""``captioner inbox``: which subfolders of an inbox are complete, and which are done."""

import dataclasses
import json

from captioner_cli.subcommand import subcommand
from captioner_core.options import InboxOptions
from captioner_core.security.redaction import escape_control_chars


def _run(options: InboxOptions) -> None:
    from captioner_core.runs.inbox import scan_inbox

    folders = scan_inbox(options)
    if options.json:
        # json.dumps writes ASCII, in which names that are not UTF-8 can be printed too.
        print(json.dumps([dataclasses.asdict(folder) for folder in folders]))
        return
    names = [escape_control_chars(folder.folder) for folder in folders]
    width = max(map(len, names), default=0)
    for folder, name in zip(folders, names, strict=True):
        print(f"{folder.state:7}  {name:{width}}  {escape_control_chars(folder.reason)}")


register = subcommand(
    "inbox",
    InboxOptions,
    _run,
    help="which subfolders of an inbox are ready to be captioned",
    description=(
        "Prints the state of each direct subfolder: done, if its run is complete; ready, if it "
        "holds the marker file, or an image and nothing in it has changed for a while; or "
        "waiting, and for what."
    ),
)
