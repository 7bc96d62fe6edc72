"""Options of whole runs, which combine several stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from captioner_core.options.choices import DEFAULT_ENCODER, DEFAULT_EPOCHS, ENCODERS
from captioner_core.options.fields import Options, option, output_root, uri_option
from captioner_core.options.images import CaptionOptions, ExtractOptions
from captioner_core.options.matching import MatchOptions, SimilarityOptions
from captioner_core.options.training import TrainOptions
from captioner_core.tables import layout

DATASET_RUN = "dataset"
"""The run of ``run-local`` that holds the features of the dataset's images."""
NEW_RUN = "new"
"""The run of ``run-local`` that captions and matches the new folder."""
BUILT_DATASETS = ("sample", "flickr8k")
"""The datasets that ``run-local`` makes itself."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SimilarityOptions, CaptionOptions):
    """Options of captioning, matching and reporting in one run."""

    output: str = output_root("out")
    plan: bool = option(
        False, help="print what the run will take, estimated from a sample, and write nothing"
    )
    check: bool = option(
        False, help="check that images folder, model and index are there and fit, and write nothing"
    )

    def __post_init__(self) -> None:
        SimilarityOptions.__post_init__(self)
        CaptionOptions.__post_init__(self)

    def caption_options(self) -> CaptionOptions:
        """Returns options for captioning the run's images."""
        return CaptionOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(CaptionOptions)}
        )

    def match_options(self) -> MatchOptions:
        """Returns options for matching the run's images with the index and with each other."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(SimilarityOptions)}
        captions = self.layout.table("captions")
        shared["index"] = (*self.index, captions)
        return MatchOptions(captions=(captions,), output=self.output, run_id=self.run_id, **shared)


@dataclass(frozen=True, kw_only=True)
class LocalOptions(Options):
    """Options of run-local, which does everything on this machine."""

    dataset: str = uri_option(
        "sample",
        help="sample, flickr8k or a dataset folder",
        metavar="NAME|DIR",
        names=BUILT_DATASETS,
    )
    flickr8k_dir: str | None = uri_option(
        None, help="folder with the two Flickr8k zips (default: download them)", metavar="DIR"
    )
    limit: int | None = option(
        None,
        help="use this many images of the dataset",
        metavar="N",
        limits=(1, None),
        remedy="leave it out for all images",
    )
    images: str | None = uri_option(
        None, help="folder to caption (default: the test images of the dataset)", metavar="DIR"
    )
    out: str = uri_option("out", help="folder for all outputs", metavar="DIR")
    threshold: float = option(0.9, help="least cosine similarity of a match", metavar="X")
    top_k: int = option(10, help="matches kept for each image; 0 only counts them", metavar="N")
    encoder: str = option(
        DEFAULT_ENCODER, help="encoder whose vectors of the captions are compared", choices=ENCODERS
    )
    workers: int = option(1, help="training processes", metavar="N")
    epochs: int | None = option(None, help="passes over the training captions", metavar="N")
    batch_size: int = option(32, help="images per call of the network", metavar="N")
    max_failures: int | None = option(
        None, help="end with exit code 1 if more images than this fail", metavar="N"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # What a later stage would refuse is refused now, before anything is written.
        self.run_options(self.images or self.out, ())
        self.train_options(Path(self.out))

    @property
    def model_dir(self) -> str:
        """The folder of the trained model."""
        return layout.join(self.out, "model")

    def extract_options(self, dataset: Path) -> ExtractOptions:
        """Returns options for extracting the dataset's features with their grid."""
        images = str(dataset / layout.DATASET_IMAGES)
        return ExtractOptions(
            images=images, output=self.out, run_id=DATASET_RUN, batch_size=self.batch_size
        )

    def train_options(self, dataset: Path) -> TrainOptions:
        """Returns options for training on the dataset."""
        features = layout.RunLayout(self.out, DATASET_RUN).table(layout.FEATURES)
        epochs = DEFAULT_EPOCHS if self.epochs is None else self.epochs
        return TrainOptions(
            dataset=(str(dataset),),
            features=(features,),
            output=self.model_dir,
            epochs=epochs,
            workers=self.workers,
        )

    def run_options(
        self,
        images: str,
        index: tuple[str, ...],
        splits: tuple[str, ...] = (),
        collection: str | None = None,
    ) -> RunOptions:
        """Returns options for captioning a folder and matching it against the index."""
        return RunOptions(
            images=images,
            collection=collection,
            output=self.out,
            run_id=NEW_RUN,
            model=self.model_dir,
            index=index,
            index_splits=splits,
            features=(layout.RunLayout(self.out, DATASET_RUN).table(layout.FEATURES),)
            if index
            else (),
            threshold=self.threshold,
            top_k=self.top_k,
            encoder=self.encoder,
            batch_size=self.batch_size,
            max_failures=self.max_failures,
        )
