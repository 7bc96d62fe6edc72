"""Captions images with a model that is loaded once."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.api.arguments import StrPath, as_model, as_uris
from captioner_core.captioning.captioning_models import CaptioningModels, load_models
from captioner_core.errors import ImageError
from captioner_core.features.base import INPUT_SIZE
from captioner_core.features.engines import choose_engine
from captioner_core.images import decoder_pool, remote_listing
from captioner_core.io.ordered_map import ordered_map
from captioner_core.models.registry import resolve_model
from captioner_core.options import PRETRAINED, ImageOptions
from captioner_core.options.choices import PRECISION_CHOICES
from captioner_core.options.fields import check
from captioner_core.weights import preconditions

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """The caption of one image file, or the reason why it has none.

    Args:
      path: The path or URI of the file, as it was given.
      caption: The caption; None if the file cannot be used as an image.
      log_prob: The natural logarithm of the caption's probability, including its end; None without
        a caption.
      error_type: The reason as a word that programs can rely on, such as ``truncated``; None with
        a caption. ``captioner_core.errors.IMAGE_ERRORS`` lists all of them.
      error_message: The reason for people; None with a caption.
    """

    path: str
    caption: str | None = None
    log_prob: float | None = None
    error_type: str | None = None
    error_message: str | None = None


class ImageCaptioner:
    """Captions one image after another with a model that is loaded once.

    ``load_captioner`` makes one.

    Args:
      models: The backbone, and the captioner that reads its features.
    """

    def __init__(self, models: CaptioningModels) -> None:
        self._models = models

    @property
    def model_id(self) -> str:
        """The id of the model, as the column ``model_id`` of a run's captions states it."""
        return self._models.generator.model_id

    def caption_images(self, paths: StrPath | Iterable[StrPath]) -> Iterator[ImageCaption]:
        """Captions images, a batch at a time.

        Args:
          paths: The local paths and URIs of the files, or a single one.

        Returns:
          An iterator with one result for each file, in the order of the files. A file that cannot
          be used as an image has a result with the reason.

        Raises:
          CaptionerError: A path lies outside the folders that ``CAPTIONER_ROOTS`` allows.
          OSError: An object store cannot be reached. The iterator raises it.
        """
        return self._caption_in_batches(as_uris("paths", paths))

    def _caption_in_batches(self, paths: Sequence[str]) -> Iterator[ImageCaption]:
        size = ImageOptions.batch_size
        # While the network works on a batch, other processes decode the next one.
        decoded = ordered_map(_decode, paths, prefetch=2 * size)
        for start in range(0, len(paths), size):
            yield from self._caption_batch(
                paths[start : start + size], list(itertools.islice(decoded, size))
            )

    def _caption_batch(
        self, paths: Sequence[str], decoded: Sequence[_Pixels | ImageError]
    ) -> Iterator[ImageCaption]:
        """Yields the result of each file of a batch.

        Args:
          paths: The files.
          decoded: The pixels of each file, uint8 [INPUT_SIZE, INPUT_SIZE, 3], or its error.
        """
        pixels = [image for image in decoded if not isinstance(image, ImageError)]
        captions = iter(self._models.caption(np.stack(pixels)).captions if pixels else ())
        for path, image in zip(paths, decoded, strict=True):
            if isinstance(image, ImageError):
                yield ImageCaption(path, error_type=image.error_type, error_message=image.message)
            else:
                caption = next(captions)
                yield ImageCaption(path, caption.text, caption.log_prob)


def load_captioner(model: StrPath = PRETRAINED, *, precision: str = "auto") -> ImageCaptioner:
    """Loads a model to caption images with, and fetches the network's weights if they are missing.

    >>> import captioner_core
    >>> captioner = captioner_core.load_captioner()
    >>> for result in captioner.caption_images(["photos/dog.png", "photos/notes.txt"]):
    ...     print(result.path, result.caption or result.error_message)
    photos/dog.png a dog runs through the grass
    photos/notes.txt its content looks like text, not an image of a supported format

    Args:
      model: The local path or URI of a model folder; a folder of models, whose current model is
        used; or ``pretrained`` for the model that comes with the package.
      precision: ``float32``; ``bfloat16`` or ``int8``, which are faster on processors that have
        them; or ``auto``, which chooses as ``captioner run`` does.

    Raises:
      CaptionerError: The model or the network's weights are missing or damaged, or this machine
        lacks the precision.
    """
    remedy = f"choose one of {', '.join(PRECISION_CHOICES)}"
    check(precision in PRECISION_CHOICES, "precision", precision, "is not known", remedy)
    folder = as_model(model)
    preconditions.check_backbone()
    engine, precision = choose_engine(precision=precision)
    models = load_models(
        ImageOptions.backbone,
        resolve_model(folder),
        beam_width=None,
        precision=precision,
        engine=engine,
    )
    return ImageCaptioner(models)


def caption_images(
    paths: StrPath | Iterable[StrPath], *, model: StrPath = PRETRAINED
) -> list[ImageCaption]:
    """Captions images, with the same captions as ``captioner run``.

    Loading the model takes seconds. A program that captions again and again calls
    ``load_captioner`` once.

    >>> import captioner_core
    >>> [result] = captioner_core.caption_images("photos/dog.png")
    >>> result.caption
    'a dog runs through the grass'

    Args:
      paths: The local paths and URIs of the files, or a single one.
      model: The model; see ``load_captioner``.

    Returns:
      One result for each file, in the order of the files. A file that cannot be used as an image
      has a result with the reason.

    Raises:
      CaptionerError: The model or the network's weights are missing or damaged.
      OSError: An object store cannot be reached.
    """
    return list(load_captioner(model).caption_images(paths))


def _decode(path: str) -> _Pixels | ImageError:
    """Returns the pixels of a file, uint8 [INPUT_SIZE, INPUT_SIZE, 3], or why there are none."""
    try:
        return decoder_pool.decode(
            remote_listing.read_bytes(path, ImageOptions.max_bytes),
            size=INPUT_SIZE,
            max_pixels=ImageOptions.max_pixels,
            max_seconds=ImageOptions.max_seconds,
        ).pixels
    except ImageError as error:
        return error
