"""What each job needs before it looks at its first image: weights, vectors, packages, tables.

Everything is cheap: neither TensorFlow nor spaCy is loaded. Missing assets are fetched here, in the process that
starts the job, so that no hour of work is lost to something that was missing all along.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.launch import runs_here
from captioner_core.errors import CaptionerError
from captioner_core.options import RunOptions
from captioner_core.weights import assets

_REPORT_PACKAGES = ("jinja2", "matplotlib")
_MINILM_PACKAGES = ("safetensors", "tokenizers")
# encoder -> what fetches and finds its weights; the learned one asks spaCy for words that training has not seen
_ENCODER_ASSETS: dict[str, tuple[Callable[[], Path], ...]] = {
    "learned": (assets.spacy_vocab,),
    "spacy-content": (assets.spacy_vocab,),
    "spacy-mean": (assets.spacy_vocab,),
    "tfidf": (),
    "minilm": (assets.minilm,),
}


def check_backbone(pipeline_args: Sequence[str] = ()) -> None:
    """Makes sure that the network's weights are in the cache, where the job runs on this machine.

    Workers of a cluster have caches of their own.

    Raises:
      CaptionerError: they are neither there nor to be had.
    """
    if runs_here(PipelineOptions(list(pipeline_args))):
        assets.xception_weights()


def check_encoder(name: str) -> None:
    """Makes sure that a text encoder can be loaded.

    Raises:
      CaptionerError: a package or its weights are missing.
    """
    if name == "minilm":
        _check_packages(
            _MINILM_PACKAGES, f"encoder {name!r}", "install captioner with the extra 'minilm'"
        )
    for find in _ENCODER_ASSETS.get(name, ()):
        find()


def check_run(options: RunOptions, pipeline_args: Sequence[str] = ()) -> None:
    """Makes sure that all stages of a run can work: captioning, matching and the report.

    Raises:
      CaptionerError: something that one of them needs is missing.
    """
    _check_packages(_REPORT_PACKAGES, "the report", "install captioner with its requirements")
    check_encoder(options.encoder)
    check_backbone(pipeline_args)


def _check_packages(names: Sequence[str], what: str, remedy: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise CaptionerError(
            f"{what} needs the package {missing[0]!r}, which is not installed; {remedy}"
        )
