"""What a job needs before it looks at its first image: network weights, vectors and packages.

The checks are cheap: they load neither TensorFlow nor spaCy. They fetch missing assets in the
process that starts the job, so that no hour of work is lost for something that was missing all
along.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.weights import assets

# For each encoder, the functions that find or fetch its weights. The learned encoder asks spaCy's
# vectors about words that it has not seen in training.
_ENCODER_ASSETS: dict[str, tuple[Callable[[], Path], ...]] = {
    "learned": (assets.spacy_vocab,),
    "spacy-content": (assets.spacy_vocab,),
    "spacy-mean": (assets.spacy_vocab,),
    "tfidf": (),
    "minilm": (assets.minilm,),
}


def check_backbone() -> None:
    """Fetches the weights of the feature network if the cache lacks them.

    Only for jobs that run on this machine: workers of a cluster have caches of their own.

    Raises:
      CaptionerError: The weights are not in the cache and cannot be fetched.
    """
    assets.xception_weights()


def check_encoder(name: str) -> None:
    """Fetches what a text encoder needs if it is missing.

    Args:
      name: One of ``options.ENCODERS``.

    Raises:
      CaptionerError: A package is missing, or the weights are missing and cannot be fetched.
    """
    if name == "minilm":
        remedy = "install captioner with the extra 'minilm'"
        _check_packages(("safetensors", "tokenizers"), f"encoder {name!r}", remedy)
    for find in _ENCODER_ASSETS.get(name, ()):
        find()


def check_quantization() -> None:
    """Checks that the package which quantises networks is installed.

    Raises:
      CaptionerError: It is missing.
    """
    _check_packages(("nncf",), "quantize", "install captioner with the extra 'quantize'")


def check_report() -> None:
    """Checks that the packages which write the report are installed.

    Raises:
      CaptionerError: One is missing.
    """
    _check_packages(
        ("jinja2", "matplotlib"), "the report", "install captioner with its requirements"
    )


def _check_packages(names: Sequence[str], user: str, remedy: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise CaptionerError(
            f"{user} needs the package {missing[0]!r}, which is not installed; {remedy}"
        )
