"""Options of the jobs that read images."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.errors import IMAGE_ERRORS, CaptionerError
from captioner_core.options.choices import (
    BACKBONES,
    DEFAULT_RUN_ID,
    MAX_PIXELS_LIMIT,
    PRECISION_CHOICES,
    PRETRAINED,
)
from captioner_core.options.fields import (
    beam_width_option,
    check,
    check_collection,
    check_fields,
    check_run_id,
    option,
    output_root,
    uri_option,
)
from captioner_core.tables.layout import RunLayout


@dataclass(frozen=True)
class ImageLimits:
    """What one image may be and take; more is a failure.

    Args:
      max_pixels: of the whole image.
      max_bytes: of its file.
      max_seconds: of decoding.
    """

    max_pixels: int
    max_bytes: int
    max_seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every job that reads images takes."""

    images: str = uri_option(
        help="folder of images, searched through all its subfolders", metavar="DIR"
    )
    output: str = output_root()
    run_id: str = option(
        DEFAULT_RUN_ID, help="name of this run; the same name again replaces the run", metavar="ID"
    )
    collection: str | None = option(
        None,
        help="name of the collection that the images belong to, which together with an image's path identifies it in "
        "all tables (default: a name made from the images folder)",
        metavar="NAME",
    )
    exclude: tuple[str, ...] = option(
        (),
        help="leave out files and folders of this shell pattern, such as '*_thumb.jpg', 'raw/' or '2019/*.png'; a "
        "pattern with a slash is for the path below --images, any other for a name; may be repeated",
        metavar="PATTERN",
    )
    batch_size: int = option(
        32,
        help="images per call of the network",
        metavar="N",
        limits=(1, 1024),
        remedy="32 suits most machines",
    )
    max_pixels: int = option(
        100_000_000,
        help="images with more pixels are failures, unread",
        metavar="N",
        limits=(1, MAX_PIXELS_LIMIT),
        remedy="choose a smaller one",
    )
    max_bytes: int = option(
        268_435_456,
        help="files with more bytes are failures, unread",
        metavar="N",
        limits=(1, None),
        remedy="leave it out for 256 MiB",
    )
    max_seconds: float = option(
        60.0,
        help="an image that takes longer to decode is a failure",
        metavar="S",
        limits=(0.01, 3600),
        remedy="60 suits images of 100 megapixels",
    )
    max_failures: int | None = option(
        None,
        help="exit 1 when more images than this fail",
        metavar="N",
        limits=(0, None),
        remedy="leave it out to allow any number",
    )
    reuse: bool = option(
        True,
        help="take over what this run, made before in the same way, found for images whose bytes are the same",
    )
    only_failures: bool = option(
        False,
        help="look again at the images alone that failed when this run was made, and keep what it found of all others; "
        "a run that isn't complete is made as a whole",
    )
    failed_for: tuple[str, ...] = option(
        (),
        help="with --only-failures: only images that failed for this reason, such as timed_out; may be repeated "
        f"(one of {', '.join(IMAGE_ERRORS)}; default: all)",
        metavar="REASON",
    )
    allow_empty: bool = option(
        False,
        help="replace a run that has images even if the folder holds none now, as when it is not mounted",
    )
    precision: str = option(
        "auto",
        help="of the network: bfloat16 is half again as fast where the processor has it, and 1 caption in 100 differs; "
        "auto is bfloat16 where the machine that starts the job has it, else float32",
        choices=PRECISION_CHOICES,
    )
    backbone: str = option(
        "xception",
        help="network that makes the features; mirrored ones are for training alone (train --mirrored)",
        choices=BACKBONES,
    )

    def __post_init__(self) -> None:
        check_run_id(self.output, self.run_id)
        check_fields(self)
        if self.collection is not None:
            check_collection("--collection", self.collection)
        for pattern in self.exclude:
            holds_one = bool(pattern.strip("/. ")) and pattern.isprintable()
            check(
                holds_one,
                "exclude",
                pattern,
                "is no shell pattern",
                "write one such as '*_thumb.jpg' or 'raw/'",
            )
        for reason in self.failed_for:
            remedy = f"choose one of {', '.join(IMAGE_ERRORS)}"
            check(
                reason in IMAGE_ERRORS, "failed_for", reason, "is no reason for a failure", remedy
            )
            check(
                self.only_failures,
                "failed_for",
                reason,
                "chooses among failures",
                "give --only-failures too",
            )

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.output, self.run_id)

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_bytes, self.max_seconds)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ImageOptions):
    """Options of the job that turns images into features."""

    grid: bool = option(
        True,
        help="also keep the 5 x 5 grid that attention needs (190 kB an image before compression)",
    )


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ImageOptions):
    """Options of the job that turns images into captions."""

    model: str = uri_option(
        PRETRAINED,
        help="model folder, or a folder of models: its current one; pretrained comes with the package",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    beam_width: int | None = beam_width_option(
        None,
        help="hypotheses kept while a caption is searched, 1 is greedy; the model's own choice where not given",
    )
    from_features: bool = option(
        False,
        help="caption the features that extract has put into this run, with their grid; no image is read again",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_features and self.only_failures:
            raise CaptionerError(
                "--only-failures looks at images again and --from-features at none; leave one out"
            )
