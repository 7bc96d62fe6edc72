"""How the functions for Python programs read their arguments."""

import os
from collections.abc import Iterable

from captioner_core.errors import CaptionerError
from captioner_core.options import PRETRAINED, SimilarityOptions
from captioner_core.security.allowed_roots import check_uri

StrPath = str | os.PathLike[str]
"""A local path, or a URI as a string."""


def as_uri(name: str, value: StrPath) -> str:
    """Returns a path or URI as a string.

    Args:
      name: The argument's name, for the error message.
      value: A local path or a URI.

    Raises:
      CaptionerError: It contains a secret, or lies outside the allowed roots.
    """
    uri = os.fspath(value)
    check_uri(name, uri)
    return uri


def as_uris(name: str, values: StrPath | Iterable[StrPath]) -> list[str]:
    """Returns paths and URIs as a list of strings; a single one becomes a list of one.

    Args:
      name: The argument's name, for the error message.
      values: Local paths and URIs.

    Raises:
      CaptionerError: One contains a secret, or lies outside the allowed roots.
    """
    if isinstance(values, str | os.PathLike):
        values = [values]
    return [as_uri(name, value) for value in values]


def as_model(value: StrPath) -> str:
    """Returns the path or URI of a model, or ``pretrained``, as a string.

    Raises:
      CaptionerError: It contains a secret, or lies outside the allowed roots.
    """
    return PRETRAINED if value == PRETRAINED else as_uri("model", value)


def as_texts(values: str | Iterable[str]) -> list[str]:
    """Returns texts as a list; a single text becomes a list of one."""
    return [values] if isinstance(values, str) else list(values)


def search_options(
    tables: StrPath | Iterable[StrPath], *, encoder: str, top_k: int, threshold: float
) -> SimilarityOptions:
    """Returns the checked options of a search.

    Args:
      tables: The captions tables to search.
      encoder: The name of the text encoder.
      top_k: The largest number of matches.
      threshold: The lowest score of a match.

    Raises:
      CaptionerError: There is no table, or a value breaks a rule of its option.
    """
    index = tuple(as_uris("tables", tables))
    if not index:
        raise CaptionerError("tables is empty; name at least one captions table to search")
    return SimilarityOptions(index=index, encoder=encoder, top_k=top_k, threshold=threshold)
