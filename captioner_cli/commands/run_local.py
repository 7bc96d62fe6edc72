"""``captioner run-local``: the whole way on this machine, which is what ``make run-local`` does.

Each stage is skipped where its output is there and was made from the same inputs, so an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.options import (
    DEFAULT_ENCODER,
    DEFAULT_EPOCHS,
    ENCODERS,
    ExtractOptions,
    RunOptions,
    TrainOptions,
    add_arguments,
    check_fields,
    from_namespace,
    option,
    uri_option,
)
from captioner_core.security.redaction import escape_control_chars
from captioner_core.tables import layout

_DATASET_RUN, _NEW_RUN = "dataset", "new"
_MADE_HERE = ("sample", "flickr8k")


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Options of the whole way."""

    dataset: str = uri_option(
        "sample", help="sample, flickr8k or a dataset folder", metavar="NAME|DIR", names=_MADE_HERE
    )
    flickr8k_dir: str | None = uri_option(
        None, help="folder with the two Flickr8k zips; downloaded where not given", metavar="DIR"
    )
    limit: int | None = option(
        None,
        help="use this many images of the dataset",
        metavar="N",
        limits=(1, None),
        remedy="leave it out for all images",
    )
    images: str | None = uri_option(
        None, help="folder to caption (default: the dataset's held-back part)", metavar="DIR"
    )
    out: str = uri_option("out", help="folder for everything that is made", metavar="DIR")
    threshold: float = option(0.9, help="least cosine similarity of a match", metavar="X")
    top_k: int = option(
        10, help="matches kept for each image; 0 keeps none and still counts them", metavar="N"
    )
    encoder: str = option(
        DEFAULT_ENCODER, help="space in which captions are compared", choices=ENCODERS
    )
    workers: int = option(1, help="training processes", metavar="N")
    epochs: int | None = option(None, help="passes over the training captions", metavar="N")
    batch_size: int = option(32, help="images per call of the network", metavar="N")
    max_failures: int | None = option(
        None, help="exit 1 when more images than this fail", metavar="N"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        # what the stages would refuse later is refused now, before anything is made
        self.run_options(self.images or self.out, ())
        self.train_options(Path(self.out))

    @property
    def model_dir(self) -> str:
        return layout.join(self.out, "model")

    def extract_options(self, dataset: Path) -> ExtractOptions:
        """Features of the dataset's images, with the grid that training needs."""
        images = str(dataset / layout.DATASET_IMAGES)
        return ExtractOptions(
            images=images, output=self.out, run_id=_DATASET_RUN, batch_size=self.batch_size
        )

    def train_options(self, dataset: Path) -> TrainOptions:
        """Training on the dataset."""
        features = layout.RunLayout(self.out, _DATASET_RUN).table(layout.FEATURES)
        epochs = DEFAULT_EPOCHS if self.epochs is None else self.epochs
        return TrainOptions(
            dataset=str(dataset),
            features=features,
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
        """Captions and matches of the new folder against the dataset's human captions."""
        return RunOptions(
            images=images,
            collection=collection,
            output=self.out,
            run_id=_NEW_RUN,
            model=self.model_dir,
            index=index,
            index_splits=splits,
            features=(layout.RunLayout(self.out, _DATASET_RUN).table(layout.FEATURES),)
            if index
            else (),
            threshold=self.threshold,
            top_k=self.top_k,
            encoder=self.encoder,
            batch_size=self.batch_size,
            max_failures=self.max_failures,
        )


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run-local",
        help="dataset, features, training, captions, matches and report on this machine",
        description="Goes the whole way on this machine; 'make run-local' is this with its variables.",
    )
    add_arguments(parser, LocalOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(LocalOptions, namespace)
    from beam_jobs import preconditions
    from captioner_cli.commands.run import caption_match_report
    from captioner_core.runs.identity import collection_of_table
    from captioner_core.weights import asset_cache, assets

    _check_outputs(options)
    if options.images is not None and not Path(options.images).is_dir():
        raise CaptionerError(
            f"--images {options.images!r} is not a folder; name the folder of images to caption"
        )
    preconditions.check_run(options.run_options(options.images or options.out, ()))
    for asset in assets.ASSETS:
        _say(f"assets: {asset_cache.ensure(asset)[0]}")
    dataset = _make_dataset(options)
    _extract(options, dataset)
    _train(options, dataset)
    images, splits = _new_folder(options, dataset)
    index = str(dataset / layout.DATASET_CAPTIONS)
    failed: CheckFailed | None = None
    # the part of the dataset that is held back is of the dataset's collection, in whatever folder it lies
    collection = None if options.images is not None else collection_of_table(index)
    try:
        caption_match_report(options.run_options(str(images), (index,), splits, collection))
    except CheckFailed as error:
        failed = error
    print(f"{'model':14} {'':8}  {options.model_dir}\n{'dataset':14} {'':8}  {dataset}")
    _verify(options)
    if failed:
        raise failed
    return 0


def _check_outputs(options: LocalOptions) -> None:
    """Refuses, before anything is fetched or made, folders in --out that captioner may not write to.

    Raises:
      CaptionerError: one holds files that captioner did not make, or an input, or cannot be written to.
    """
    from captioner_core.datasets import check_dataset_output, check_split_output
    from captioner_core.io import outputs
    from captioner_core.runs.run_files import check_run_output
    from captioner_core.training.work_folder import check_train_outputs

    outputs.check_reachable(options.out, "--out")
    dataset = _dataset_folder(options)
    if options.dataset in _MADE_HERE and not _is_made(options, dataset):
        check_dataset_output(dataset, option="--out")
    read = {"--dataset": [str(dataset)]}
    if options.images is not None:
        read["--images"] = [options.images]
    for run_id in (_DATASET_RUN, _NEW_RUN):
        check_run_output(layout.RunLayout(options.out, run_id), read)
    check_train_outputs(options.train_options(dataset), option="--out")
    if options.images is None:
        check_split_output(dataset, _split_folder(options), option="--out")


def _dataset_folder(options: LocalOptions) -> Path:
    return (
        Path(options.out, "datasets", options.dataset)
        if options.dataset in _MADE_HERE
        else Path(options.dataset)
    )


def _split_folder(options: LocalOptions) -> Path:
    return Path(options.out, "new_images")


def _is_made(options: LocalOptions, dataset: Path) -> bool:
    """Returns whether the dataset that is made here is there, made with the same options."""
    from captioner_core.datasets import flickr8k, is_built, sample

    if options.dataset == "flickr8k":
        return is_built(dataset, flickr8k.options(limit=options.limit))
    return is_built(dataset, sample.options(images=_sample_images(options)))


def _sample_images(options: LocalOptions) -> int:
    from captioner_core.datasets import sample

    return sample.DEFAULT_IMAGES if options.limit is None else options.limit


def _make_dataset(options: LocalOptions) -> Path:
    from captioner_core.datasets import flickr8k, sample
    from captioner_core.process.cache_folder import cache_dir

    target = _dataset_folder(options)
    if options.dataset == "sample":
        if not _is_made(options, target):
            _say_all(sample.build(target, images=_sample_images(options)).lines())
    elif options.dataset == "flickr8k":
        source = Path(options.flickr8k_dir) if options.flickr8k_dir else None
        if not _is_made(options, target):
            _say_all(
                flickr8k.build(
                    target, source=source, limit=options.limit, cache=cache_dir()
                ).lines()
            )
    elif not (target / layout.DATASET_CAPTIONS).is_file():
        raise CaptionerError(
            f"--dataset {options.dataset!r} is neither sample, flickr8k nor a folder with images/ and "
            "captions.parquet; 'captioner dataset --help' says how to make one"
        )
    return target


def _extract(options: LocalOptions, dataset: Path) -> None:
    from beam_jobs import extract_features, launch
    from captioner_core.io import storage
    from captioner_core.runs import commits

    asked = options.extract_options(dataset)
    asked = dataclasses.replace(asked, precision=launch.chosen_precision(asked.precision, ()))
    if storage.exists(asked.layout.manifest):
        manifest = Path(asked.layout.manifest)
        recorded = json.loads(
            json.dumps(dataclasses.asdict(asked))
        )  # as a manifest has it: tuples are lists
        same = commits.read_manifest(asked.layout.run_dir)["options"] == recorded
        if same and manifest.stat().st_mtime >= (dataset / layout.DATASET_CAPTIONS).stat().st_mtime:
            _say(f"extract: features of {asked.images} are there, {asked.layout.run_dir}")
            return
    extract_features.run(asked)


def _train(options: LocalOptions, dataset: Path) -> None:
    from captioner_core.captioning.saved_model import CONFIG, METRICS
    from captioner_core.io import storage
    from captioner_core.training.inputs import training_fingerprint
    from captioner_core.training.train import train

    asked = options.train_options(dataset)
    metrics = layout.join(asked.output, METRICS)
    is_whole = storage.exists(metrics) and storage.exists(layout.join(asked.output, CONFIG))
    if is_whole and storage.read_json(metrics).get("training_fingerprint") == training_fingerprint(
        asked
    ):
        _say(f"train: this training is done, {asked.output}")
        return
    train(asked)


def _new_folder(options: LocalOptions, dataset: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder to caption, and the splits whose human captions it is matched against.

    Without ``--images`` it is made of the images of the test split, else of the dev split,
    whose human captions then stay out of the index: nobody has written any for a new folder.
    """
    from captioner_core.datasets import link_split
    from captioner_core.training.dataset import read_captions_by_split

    if options.images is not None:
        return Path(options.images), ()
    captions = read_captions_by_split(str(dataset))
    held = next((split for split in ("test", "dev") if captions.get(split)), None)
    if held is None:
        raise CaptionerError(
            f"dataset {str(dataset)!r} has no test or dev split to caption; give --images DIR"
        )
    folder = _split_folder(options)
    link_split(dataset, folder, captions[held])
    return folder, tuple(split for split in captions if split != held)


def _verify(options: LocalOptions) -> None:
    from captioner_core.runs.verify import verify

    run = layout.RunLayout(options.out, _NEW_RUN)
    breaches = verify(run.run_dir)
    for breach in breaches:
        print(escape_control_chars(f"breach: {breach}"))
    if breaches:
        raise CheckFailed(
            f"{run.run_dir}: {len(breaches)} breaches of the tables' invariants, listed above"
        )
    print(f"{'verify':14} {'ok':>8}  captioner verify {run.run_dir}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_all(lines: list[str]) -> None:
    for line in lines:
        _say(line)
