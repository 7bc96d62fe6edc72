"""What captioner computes, without Beam and Airflow, and its functions for Python programs.

>>> import captioner_core
>>> captions = captioner_core.caption_images(captioner_core.list_images("photos"))
>>> similar = captioner_core.search_captions("a dog on the beach", "out/runs/run/captions")
>>> matches = captioner_core.read_run("out/runs/run").read_table("matches")

Importing this package loads nothing heavy: each name below is imported when it is first used.

The packages, in the order in which a photograph meets them:

* ``images``: lists the images of a folder and decodes them.
* ``features``: turns pixels into features, by a network such as Xception.
* ``captioning``: turns features into captions, by a trained model.
* ``text``: splits captions into tokens, and encodes them as vectors.
* ``matching``: finds the images with the most similar captions.
* ``runs``: commits, reuses and verifies what the jobs write.
* ``report``: shows a finished run as a page.

How models come to be: ``datasets`` builds training data, ``training`` trains, ``analysis``
measures, ``models`` keeps the current one, and ``weights`` downloads networks that others have
trained.

What all of them use: ``options``, ``tables`` (the columns and paths of every table), ``io``,
``security``, ``process``, ``console`` and ``errors``.

``api`` holds the functions for Python programs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from captioner_core.errors import CaptionerError
from captioner_core.version import VERSION

if TYPE_CHECKING:  # For mypy, editors and the API reference, which do not run __getattr__.
    from captioner_core.api.captions import (
        ImageCaption,
        ImageCaptioner,
        caption_images,
        load_captioner,
    )
    from captioner_core.api.images import list_images
    from captioner_core.api.runs import Run, read_run, verify_run
    from captioner_core.api.search import CaptionMatch, encode_text, search_captions
    from captioner_core.api.similar import similar_images

__all__ = [
    "CaptionMatch",
    "CaptionerError",
    "ImageCaption",
    "ImageCaptioner",
    "Run",
    "__version__",
    "caption_images",
    "encode_text",
    "list_images",
    "load_captioner",
    "read_run",
    "search_captions",
    "similar_images",
    "verify_run",
]

__version__ = VERSION

# Name -> the module that it is imported from when it is first used.
_LAZY_NAMES = {
    "CaptionMatch": "captioner_core.api.search",
    "ImageCaption": "captioner_core.api.captions",
    "ImageCaptioner": "captioner_core.api.captions",
    "Run": "captioner_core.api.runs",
    "caption_images": "captioner_core.api.captions",
    "encode_text": "captioner_core.api.search",
    "list_images": "captioner_core.api.images",
    "load_captioner": "captioner_core.api.captions",
    "read_run": "captioner_core.api.runs",
    "search_captions": "captioner_core.api.search",
    "similar_images": "captioner_core.api.similar",
    "verify_run": "captioner_core.api.runs",
}


def __getattr__(name: str) -> Any:
    """Imports a name of the API when it is first used (PEP 562)."""
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names that the package has, whether or not they have been used."""
    return sorted({*globals(), *__all__})
