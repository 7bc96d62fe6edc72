"""Everything from a dataset to the report on one machine: ``captioner run-local``.

Each step is skipped if its output is there and was made from the same inputs, so an interrupted
call continues with the step that it was in.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import NamedTuple

from beam_jobs import extract_features
from beam_jobs.workflows import run as run_workflow
from captioner_core.captioning.saved_model import CONFIG, METRICS
from captioner_core.datasets import (
    check_dataset_output,
    check_split_output,
    flickr8k,
    is_built,
    link_split,
    sample,
)
from captioner_core.errors import CaptionerError
from captioner_core.features.engines import resolve_engine
from captioner_core.io import outputs, storage
from captioner_core.options import (
    BUILT_DATASETS,
    DATASET_RUN,
    NEW_RUN,
    ExtractOptions,
    LocalOptions,
    TrainOptions,
)
from captioner_core.process.cache_folder import cache_dir
from captioner_core.runs import commits, identity, run_files
from captioner_core.tables import layout
from captioner_core.training.dataset import read_captions_by_split
from captioner_core.training.inputs import training_fingerprint
from captioner_core.training.train import train
from captioner_core.training.work_folder import check_train_outputs
from captioner_core.weights import asset_cache, assets


class LocalResult(NamedTuple):
    """The outputs of ``run_local``.

    Args:
      dataset: The dataset folder.
      run: The run over the new folder.
    """

    dataset: Path
    run: run_workflow.RunResult


class _NewFolder(NamedTuple):
    """The folder to caption.

    Args:
      images: The folder.
      index_splits: The splits whose human captions it is matched against; empty for all.
    """

    images: Path
    index_splits: tuple[str, ...]


def run_local(options: LocalOptions) -> LocalResult:
    """Makes a dataset, trains a captioner, and captions and matches a folder with it.

    Args:
      options: What to make, and where.

    Raises:
      CaptionerError: Bad input, or an output folder that captioner may not write to.
    """
    _check_outputs(options)
    if options.images is not None and not Path(options.images).is_dir():
        raise CaptionerError(
            f"--images {options.images!r} is not a folder; name the folder of images to caption"
        )
    run_workflow.check_requirements(options.run_options(options.images or options.out, ()))
    for asset in assets.ASSETS:
        _log(f"assets: {asset_cache.ensure(asset)[0]}")
    dataset = _make_dataset(options)
    _extract(options.extract_options(dataset), dataset)
    _train(options.train_options(dataset))
    folder = _new_folder(options, dataset)
    index = str(dataset / layout.DATASET_CAPTIONS)
    # The held-back images belong to the dataset's collection, although they lie in another folder.
    collection = None if options.images is not None else identity.collection_of_table(index)
    run_options = options.run_options(str(folder.images), (index,), folder.index_splits, collection)
    plan = run_workflow.plan_run(run_options)
    return LocalResult(dataset, run_workflow.execute_run(plan))


def _check_outputs(options: LocalOptions) -> None:
    """Refuses, before any work, folders in --out that captioner may not write to.

    Raises:
      CaptionerError: A folder holds files that captioner did not make, or holds an input, or
        cannot be written to.
    """
    outputs.check_reachable(options.out, "--out")
    dataset = _dataset_folder(options)
    if options.dataset in BUILT_DATASETS and not _is_dataset_built(options, dataset):
        check_dataset_output(dataset, option="--out")
    inputs = {"--dataset": [str(dataset)]}
    if options.images is not None:
        inputs["--images"] = [options.images]
    for run_id in (DATASET_RUN, NEW_RUN):
        run_files.check_run_output(layout.RunLayout(options.out, run_id), inputs)
    check_train_outputs(options.train_options(dataset), option="--out")
    if options.images is None:
        check_split_output(dataset, _split_folder(options), option="--out")


def _dataset_folder(options: LocalOptions) -> Path:
    if options.dataset in BUILT_DATASETS:
        return Path(options.out, "datasets", options.dataset)
    return Path(options.dataset)


def _split_folder(options: LocalOptions) -> Path:
    return Path(options.out, "new_images")


def _is_dataset_built(options: LocalOptions, dataset: Path) -> bool:
    if options.dataset == "flickr8k":
        return is_built(dataset, flickr8k.options(limit=options.limit))
    return is_built(dataset, sample.options(images=_sample_images(options)))


def _sample_images(options: LocalOptions) -> int:
    return sample.DEFAULT_IMAGES if options.limit is None else options.limit


def _make_dataset(options: LocalOptions) -> Path:
    folder = _dataset_folder(options)
    if options.dataset not in BUILT_DATASETS:
        if not (folder / layout.DATASET_CAPTIONS).is_file():
            raise CaptionerError(
                f"--dataset {options.dataset!r} is neither sample, flickr8k nor a folder with "
                "images/ and captions.parquet; 'captioner dataset --help' says how to make one"
            )
        return folder
    if _is_dataset_built(options, folder):
        return folder
    if options.dataset == "sample":
        summary = sample.build(folder, images=_sample_images(options))
    else:
        source = Path(options.flickr8k_dir) if options.flickr8k_dir else None
        summary = flickr8k.build(folder, source=source, limit=options.limit, cache=cache_dir())
    for line in summary.lines():
        _log(line)
    return folder


def _extract(options: ExtractOptions, dataset: Path) -> None:
    options = resolve_engine(options, is_local=True)
    if _is_extracted(options, dataset):
        _log(f"extract: features of {options.images} are there, {options.layout.run_dir}")
        return
    extract_features.run(options)


def _is_extracted(options: ExtractOptions, dataset: Path) -> bool:
    manifest = Path(options.layout.manifest)
    if not manifest.exists():
        return False
    # As JSON states them: tuples are lists.
    wanted = json.loads(json.dumps(dataclasses.asdict(options)))
    if commits.read_manifest(options.layout.run_dir)["options"] != wanted:
        return False
    return manifest.stat().st_mtime >= (dataset / layout.DATASET_CAPTIONS).stat().st_mtime


def _train(options: TrainOptions) -> None:
    if _is_trained(options):
        _log(f"train: this training is done, {options.output}")
        return
    train(options)


def _is_trained(options: TrainOptions) -> bool:
    metrics = layout.join(options.output, METRICS)
    config = layout.join(options.output, CONFIG)
    if not storage.exists(metrics) or not storage.exists(config):
        return False
    recorded = storage.read_json(metrics).get("training_fingerprint")
    return bool(recorded == training_fingerprint(options))


def _new_folder(options: LocalOptions, dataset: Path) -> _NewFolder:
    """Returns the folder to caption.

    Without ``--images`` it is made of the images of the test split, or of the dev split if there
    is no test split. Their human captions then stay out of the index, as if nobody had written
    any, which is so for a new folder.

    Raises:
      CaptionerError: The dataset has neither split.
    """
    if options.images is not None:
        return _NewFolder(Path(options.images), ())
    captions = read_captions_by_split(str(dataset))
    held_back = next((split for split in ("test", "dev") if captions.get(split)), None)
    if held_back is None:
        raise CaptionerError(
            f"dataset {str(dataset)!r} has no test or dev split to caption; give --images DIR"
        )
    folder = _split_folder(options)
    link_split(dataset, folder, captions[held_back])
    return _NewFolder(folder, tuple(split for split in captions if split != held_back))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
