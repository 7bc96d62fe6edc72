"""Where everything of a run lies below its root: the one place that knows these names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

FEATURES = "features"
CAPTIONS = "captions"
MATCHES = "matches"
MATCH_SUMMARY = "match_summary"
CAPTION_GROUPS = "caption_groups"
MATCH_INPUTS = "match_inputs"
FAILURES = "failures"
TABLES = (FEATURES, CAPTIONS, MATCHES, MATCH_SUMMARY, CAPTION_GROUPS, MATCH_INPUTS, FAILURES)

EXTRACT = "extract"
CAPTION = "caption"
MATCH = "match"
STAGE_TABLES = {
    EXTRACT: (FEATURES, FAILURES),
    CAPTION: (FEATURES, CAPTIONS, FAILURES),
    MATCH: (MATCHES, MATCH_SUMMARY, CAPTION_GROUPS, MATCH_INPUTS),
}

MANIFEST = "manifest.json"
STAGING = "_staging"

DATASET_IMAGES = "images"
DATASET_CAPTIONS = "captions.parquet"
DATASET_SUMMARY = "dataset.json"

CURRENT_MODEL = "current.json"  # in a folder of models

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_RUN_ID_LENGTH = 128
_DIGEST_LENGTH = 8


def join(*parts: str) -> str:
    """Joins the parts of a URI or path with ``/``, which every Beam file system takes."""
    head, *tail = parts
    return "/".join([head.rstrip("/"), *(part.strip("/") for part in tail)])


def run_id_of(text: str) -> str:
    """A run id for any name, always the same one: the name itself where it is a run id.

    Else each character that a run id can't have becomes ``-``, and what is left ends in ``-`` and
    eight digits of the name's sha256, so that names that differ in these characters alone, or only
    after what fits, don't share a run.

    >>> run_id_of("2024-05 Oslo")
    '2024-05-Oslo-77f41f75'
    """
    if is_run_id(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-") or "run"
    return f"{readable[: _RUN_ID_LENGTH - 1 - _DIGEST_LENGTH]}-{digest}"


def is_run_id(text: str) -> bool:
    """Whether a name is portable: 1 to 128 letters, digits, ``.``, ``_`` and ``-``, a letter or digit first."""
    return re.fullmatch(RUN_ID_PATTERN, text) is not None


@dataclass(frozen=True)
class RunLayout:
    """Names everything in ``ROOT/runs/RUN_ID``.

    Args:
      root: a local folder or a URI (``gs://``, ``s3://``).
      run_id: letters, digits, ``.``, ``_`` and ``-``; 128 characters at most.
      attempt: names one try at writing the run, which stages beside all others.

    Raises:
      ValueError: the run id could leave its folder or isn't portable.
    """

    root: str
    run_id: str
    attempt: str = ""

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError("output root '' is empty; name a folder, such as --output out")
        if not is_run_id(self.run_id):
            raise ValueError(
                f"run id {self.run_id!r} must be 1 to 128 letters, digits, '.', '_' or '-', "
                "and start with a letter or digit; choose another --run-id"
            )

    @classmethod
    def of(cls, run_dir: str) -> RunLayout | None:
        """The layout whose ``run_dir`` this is; None where it is named otherwise than ROOT/runs/RUN_ID."""
        parts = run_dir.rstrip("/").rsplit("/", 2)
        named = len(parts) == 3 and parts[0] and parts[1] == "runs" and is_run_id(parts[2])
        return cls(parts[0], parts[2]) if named else None

    @property
    def run_dir(self) -> str:
        return join(self.root, "runs", self.run_id)

    @property
    def manifest(self) -> str:
        return join(self.run_dir, MANIFEST)

    @property
    def report(self) -> str:
        return join(self.run_dir, "report", "index.html")

    @property
    def staging(self) -> str:
        """Holds what this attempt has not committed yet; nothing in it is ever read as a result."""
        return join(self.all_staging, self.attempt) if self.attempt else self.all_staging

    @property
    def all_staging(self) -> str:
        """Holds what any attempt has not committed yet."""
        return join(self.run_dir, STAGING)

    @property
    def owner(self) -> str:
        """Says which attempt may commit."""
        return join(self.all_staging, "owner.json")

    def table(self, name: str) -> str:
        """The folder of one table, holding ``part-*.parquet``."""
        return join(self.run_dir, name)

    def staged_table(self, name: str) -> str:
        """The folder of the files that an attempt writes for a table; ``staged_lists`` say which of them count."""
        return join(self.staging, name)

    def staged_lists(self, name: str) -> str:
        """The folder of lists of a staged table's files, one of each step that writes some."""
        return join(self.staging, "lists", name)
