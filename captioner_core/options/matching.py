"""Options of matching captions."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.errors import CaptionerError
from captioner_core.options.choices import (
    DEFAULT_ENCODER,
    DEFAULT_RUN_ID,
    ENCODERS,
    PRETRAINED,
    RANK_BY,
    SCORE,
)
from captioner_core.options.fields import (
    Options,
    check_run_id,
    option,
    threshold_option,
    uri_option,
)
from captioner_core.tables.layout import RunLayout


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions(Options):
    """Options that decide which captions match."""

    index: tuple[str, ...] = uri_option(
        (),
        help="captions table to match against: a run's or a dataset's; may be repeated",
        metavar="URI",
    )
    index_splits: tuple[str, ...] = option(
        (),
        help="use only this split of a dataset's table; may be repeated (default: all)",
        metavar="SPLIT",
    )
    features: tuple[str, ...] = uri_option(
        (),
        help="features table for feature_score and duplicates, in addition to those of the runs "
        "that --captions and --index name; may be repeated",
        metavar="URI",
    )
    threshold: float = threshold_option(0.9, help="least cosine similarity of a match")
    top_k: int = option(
        10,
        help="matches kept for each image; with 0 match_summary still counts how many reach the "
        "threshold",
        metavar="N",
        limits=(0, 10_000),
    )
    encoder: str = option(
        DEFAULT_ENCODER, help="encoder whose vectors of the captions are compared", choices=ENCODERS
    )
    min_confidence: float = option(
        0.0,
        help="least confidence of a generated caption: images with a less certain one are neither "
        "matched nor matched against, and have the status 'uncertain'",
        metavar="X",
        limits=(0, 1),
    )
    rank_by: str = option(
        SCORE,
        help="what ranks the matches: their score, or score and features combined",
        choices=RANK_BY,
    )


@dataclass(frozen=True, kw_only=True)
class MatchOptions(SimilarityOptions):
    """Options of the job that turns captions into matches."""

    captions: tuple[str, ...] = uri_option(
        (), help="captions table whose images are matched; may be repeated", metavar="URI"
    )
    output: str | None = uri_option(
        None,
        help="output root; tables go to ROOT/runs/RUN_ID (with --update: the root of RUN)",
        metavar="ROOT",
    )
    run_id: str | None = option(
        None,
        help="name of this run; the same name again replaces its matches (default: run, or with "
        "--update the name of RUN)",
        metavar="ID",
    )
    update: str | None = uri_option(
        None,
        help="folder of a run of matches to bring up to date: its tables are read again, "
        "--captions and --index are added, and only what is new, changed or removed is searched",
        metavar="RUN",
    )
    drop: tuple[str, ...] = uri_option(
        (),
        help="with --update: captions table of RUN to leave out from now on; may be repeated",
        metavar="URI",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update is None:
            if not self.captions:
                raise CaptionerError(
                    "no --captions given; name the captions table whose images are matched"
                )
            if not self.index:
                raise CaptionerError(
                    "no --index given; name at least one captions table to match against"
                )
            if self.output is None:
                raise CaptionerError("no --output given; name an output root, such as --output out")
            if self.drop:
                raise CaptionerError(f"--drop {self.drop[0]!r} is only for --update; leave it out")
        elif self.rank_by != SCORE:
            raise CaptionerError(
                f"--update can't keep ranks of --rank-by {self.rank_by}, which depend on features; "
                "match without --update"
            )
        _ = self.layout

    @property
    def layout(self) -> RunLayout:
        """The run that the matches are written to.

        Raises:
          CaptionerError: --update names no run's folder, or the run id is not portable.
        """
        root = self.output
        run_id = self.run_id
        if self.update is not None:
            updated = RunLayout.from_run_dir(self.update)
            if updated is None:
                raise CaptionerError(
                    f"--update {self.update!r} is no run's folder; name ROOT/runs/RUN_ID"
                )
            root = root or updated.root
            run_id = run_id or updated.run_id
        root = root or ""
        run_id = run_id or DEFAULT_RUN_ID
        check_run_id(root, run_id)
        return RunLayout(root, run_id)


@dataclass(frozen=True, kw_only=True)
class SimilarOptions(Options):
    """Options of the search for images similar to one image."""

    index: tuple[str, ...] = uri_option(
        (), help="captions table to search: a run's or a dataset's; may be repeated", metavar="URI"
    )
    n: int = option(5, help="images to show", metavar="N", limits=(1, 50))
    threshold: float = threshold_option(0.9, help="least cosine similarity")
    model: str = uri_option(
        PRETRAINED,
        help="model folder, or a folder of models, of which the current one is used; pretrained is "
        "the model that comes with the package",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    encoder: str = option(
        DEFAULT_ENCODER, help="encoder whose vectors of the captions are compared", choices=ENCODERS
    )
    output: str = uri_option(
        "similar.png", help="picture to write, with the images side by side", metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.index:
            raise CaptionerError("no --index given; name at least one captions table to search")


@dataclass(frozen=True, kw_only=True)
class ThresholdsOptions(Options):
    """Options of the comparison of thresholds."""

    captions: str = uri_option(help="captions table: a run's or a dataset's", metavar="URI")
    split: tuple[str, ...] = option(
        (), help="use only this split of a dataset; may be repeated", metavar="SPLIT"
    )
    encoder: str = option(
        DEFAULT_ENCODER, help="encoder whose vectors of the captions are compared", choices=ENCODERS
    )
    min_confidence: float = option(
        0.0, help="leave out generated captions with less confidence", metavar="X", limits=(0, 1)
    )
    output: str = uri_option("thresholds.svg", help="plot to write", metavar="FILE")
