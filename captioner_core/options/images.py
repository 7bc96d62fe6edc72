"""Options of the jobs that read images."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.errors import IMAGE_ERRORS, CaptionerError
from captioner_core.options.choices import (
    BACKBONES,
    DEFAULT_RUN_ID,
    ENGINE_CHOICES,
    MAX_PIXELS_LIMIT,
    PRECISION_CHOICES,
    PRETRAINED,
)
from captioner_core.options.fields import (
    Options,
    beam_width_option,
    check,
    check_collection,
    check_run_id,
    option,
    output_root,
    uri_option,
)
from captioner_core.tables.layout import RunLayout


@dataclass(frozen=True)
class ImageLimits:
    """The limits of one image. An image beyond them becomes a failure.

    Args:
      max_pixels: The largest number of pixels.
      max_bytes: The largest size of the file.
      max_seconds: The longest time that decoding may take.
    """

    max_pixels: int
    max_bytes: int
    max_seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Options of every job that reads images."""

    images: str = uri_option(
        help="folder of images, searched through all its subfolders", metavar="DIR"
    )
    output: str = output_root()
    run_id: str = option(
        DEFAULT_RUN_ID, help="name of this run; the same name again replaces the run", metavar="ID"
    )
    collection: str | None = option(
        None,
        help="name of the collection that the images belong to; together with its path it "
        "identifies an image in all tables (default: a name made from the images folder)",
        metavar="NAME",
    )
    exclude: tuple[str, ...] = option(
        (),
        help="leave out files and folders that match this shell pattern, such as '*_thumb.jpg', "
        "'raw/' or '2019/*.png'; a pattern with a slash is compared with the path below --images, "
        "any other with the name; may be repeated",
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
        help="images with more pixels become failures without being decoded",
        metavar="N",
        limits=(1, MAX_PIXELS_LIMIT),
        remedy="choose a smaller one",
    )
    max_bytes: int = option(
        268_435_456,
        help="files with more bytes become failures without being decoded",
        metavar="N",
        limits=(1, None),
        remedy="leave it out for 256 MiB",
    )
    max_seconds: float = option(
        60.0,
        help="images that take longer to decode become failures",
        metavar="S",
        limits=(0.01, 3600),
        remedy="60 suits images of 100 megapixels",
    )
    max_failures: int | None = option(
        None,
        help="end with exit code 1 if more images than this fail",
        metavar="N",
        limits=(0, None),
        remedy="leave it out to allow any number",
    )
    reuse: bool = option(
        True,
        help="reuse the results of this run's earlier call for images whose bytes are unchanged, "
        "if it was made with the same options",
    )
    only_failures: bool = option(
        False,
        help="retry only this run's failed images and keep all other results; a run that is not "
        "complete is made as a whole",
    )
    failed_for: tuple[str, ...] = option(
        (),
        help="with --only-failures: retry only images that failed for this reason, such as "
        f"timed_out; may be repeated (one of {', '.join(IMAGE_ERRORS)}; default: all)",
        metavar="REASON",
    )
    allow_empty: bool = option(
        False,
        help="replace a run that has images even if the folder holds none now, which may only mean "
        "that it is not mounted",
    )
    precision: str = option(
        "auto",
        help="precision of the network; captions and matches are equally good in all of them; auto "
        "chooses the fastest that the machine that starts the job has: int8, bfloat16 or float32",
        choices=PRECISION_CHOICES,
    )
    engine: str = option(
        "auto",
        help="library that runs the networks; auto chooses tensorflow if the machine that starts "
        "the job has an NVIDIA GPU, else openvino",
        choices=ENGINE_CHOICES,
    )
    backbone: str = option(
        "xception",
        help="network that computes the features; the mirrored one is for training only "
        "(train --mirrored)",
        choices=BACKBONES,
    )

    def __post_init__(self) -> None:
        check_run_id(self.output, self.run_id)
        super().__post_init__()
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
        """The run that the job writes."""
        return RunLayout(self.output, self.run_id)

    @property
    def limits(self) -> ImageLimits:
        """The limits of one image."""
        return ImageLimits(self.max_pixels, self.max_bytes, self.max_seconds)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ImageOptions):
    """Options of the job that turns images into features."""

    grid: bool = option(
        True,
        help="also keep the 5 x 5 grid that attention needs (190 kB per image before compression)",
    )


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ImageOptions):
    """Options of the job that turns images into captions."""

    model: str = uri_option(
        PRETRAINED,
        help="model folder, or a folder of models, of which the current one is used; pretrained is "
        "the model that comes with the package",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    beam_width: int | None = beam_width_option(
        None,
        help="hypotheses kept while a caption is searched; 1 is greedy search (default: the "
        "model's own choice)",
    )
    from_features: bool = option(
        False,
        help="caption the features that extract has written to this run, without reading any image "
        "again",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_features and self.only_failures:
            raise CaptionerError(
                "--only-failures reads images again and --from-features reads none; leave one out"
            )
