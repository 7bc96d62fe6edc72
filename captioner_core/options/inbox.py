"""Options of the look at an inbox."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.options.choices import DEFAULT_RUN_ID
from captioner_core.options.fields import Options, check, check_run_id, option, uri_option


@dataclass(frozen=True, kw_only=True)
class InboxOptions(Options):
    """Options of a look at an inbox."""

    inbox: str = uri_option(
        help="folder whose subfolders are to be captioned, a run each", metavar="DIR"
    )
    output: str = uri_option(
        help="output root where their runs are: ROOT/runs/RUN_ID", metavar="ROOT"
    )
    marker: str = option(
        "_SUCCESS", help="file in a subfolder that says that it is complete", metavar="NAME"
    )
    quiet_minutes: float = option(
        10.0,
        help="without the marker, a subfolder is complete once nothing changed for so long",
        metavar="N",
        limits=(0, 10_080),
    )
    marker_only: bool = option(False, help="only the marker says that a subfolder is complete")
    json: bool = option(False, help="print a JSON list in place of lines")

    def __post_init__(self) -> None:
        check_run_id(self.output, DEFAULT_RUN_ID)
        plain = (
            self.marker not in ("", ".", "..")
            and "/" not in self.marker
            and self.marker.isprintable()
        )
        check(
            plain,
            "marker",
            self.marker,
            "must be the plain name of a file",
            "_SUCCESS is the default",
        )
        super().__post_init__()
