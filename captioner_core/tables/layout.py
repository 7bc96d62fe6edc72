"""Names and paths of everything in a run's folder.

No other module spells out these names. A run looks like this::

    ROOT/runs/RUN_ID/
      manifest.json                   written last: it makes the run complete
      features/part-00000.parquet     one folder for each table in ``TABLES``
      captions/part-00000.parquet
      ...
      report/index.html
      _staging/                       work that is not committed yet
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
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
"""The tables that each stage writes."""

MANIFEST = "manifest.json"
STAGING = "_staging"

DATASET_IMAGES = "images"
DATASET_CAPTIONS = "captions.parquet"
DATASET_SUMMARY = "dataset.json"

CURRENT_MODEL = "current.json"
"""The file in a folder of models that names the current one."""

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_RUN_ID_LENGTH = 128
_DIGEST_LENGTH = 8


def join(*parts: str) -> str:
    """Joins the parts of a path or URI with ``/``, which every Beam file system accepts.

    >>> join("gs://bucket/out/", "runs", "run")
    'gs://bucket/out/runs/run'
    """
    head, *tail = parts
    return "/".join([head.rstrip("/"), *(part.strip("/") for part in tail)])


def tables_of(stages: Iterable[str]) -> set[str]:
    """Returns the names of all tables that these stages write."""
    return {table for stage in stages for table in STAGE_TABLES.get(stage, ())}


def run_id_of(text: str) -> str:
    """Returns a run id for any text; the same text always gets the same run id.

    A text that is a valid run id is returned as it is. In any other text, each character that a
    run id cannot contain becomes ``-``, and eight digits of the text's SHA-256 are appended. The
    digits keep two texts apart that differ only in such characters or beyond the maximum length.

    >>> run_id_of("2024-05 Oslo")
    '2024-05-Oslo-77f41f75'
    """
    if is_run_id(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-") or "run"
    return f"{readable[: _RUN_ID_LENGTH - 1 - _DIGEST_LENGTH]}-{digest}"


def is_run_id(text: str) -> bool:
    """Returns whether a text is a valid run id.

    A run id has 1 to 128 letters, digits, ``.``, ``_`` and ``-``, and starts with a letter or
    digit, so it is a portable folder name.

    >>> is_run_id("2024-05-oslo"), is_run_id("2024/05"), is_run_id(".hidden")
    (True, False, False)
    """
    return re.fullmatch(RUN_ID_PATTERN, text) is not None


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run, ``ROOT/runs/RUN_ID``.

    >>> run = RunLayout("out", "oslo")
    >>> run.table("captions"), run.manifest
    ('out/runs/oslo/captions', 'out/runs/oslo/manifest.json')

    Args:
      root: a local folder or a URI (``gs://``, ``s3://``).
      run_id: the run's name; see ``is_run_id``.
      attempt: the name of one attempt at writing the run. Each attempt stages its files in a
        folder of its own. Empty for readers.

    Raises:
      ValueError: the root is empty, or the run id is not valid.
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
    def from_run_dir(cls, run_dir: str) -> RunLayout | None:
        """Returns the layout of a run's folder; None if it is not named ``ROOT/runs/RUN_ID``."""
        root, _, run_id = run_dir.rstrip("/").rpartition("/runs/")
        return cls(root, run_id) if root and is_run_id(run_id) else None

    @property
    def run_dir(self) -> str:
        """The run's folder."""
        return join(self.root, "runs", self.run_id)

    @property
    def manifest(self) -> str:
        """The manifest, whose presence makes the run complete."""
        return join(self.run_dir, MANIFEST)

    @property
    def report(self) -> str:
        """The HTML report."""
        return join(self.run_dir, "report", "index.html")

    @property
    def staging(self) -> str:
        """The folder of files that this attempt has not committed yet; readers ignore it."""
        return join(self.all_staging, self.attempt) if self.attempt else self.all_staging

    @property
    def all_staging(self) -> str:
        """The folder that contains the staging folders of all attempts."""
        return join(self.run_dir, STAGING)

    @property
    def owner(self) -> str:
        """The file that names the attempt that may commit."""
        return join(self.all_staging, "owner.json")

    def table(self, name: str) -> str:
        """Returns the folder of a table, which holds its ``part-*.parquet`` files."""
        return join(self.run_dir, name)

    def staged_table(self, name: str) -> str:
        """Returns the folder of the files that this attempt writes for a table.

        Only the files that the lists in ``staged_lists`` name belong to the table.
        """
        return join(self.staging, name)

    def staged_lists(self, name: str) -> str:
        """Returns the folder of the lists of a staged table's files, one list for each step."""
        return join(self.staging, "lists", name)
