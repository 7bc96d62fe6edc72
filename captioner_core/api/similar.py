"""Finds the images most similar to one image."""

from collections.abc import Iterable

from captioner_core.analysis.similar_images import SimilarImageFinder
from captioner_core.api.arguments import StrPath, as_model, as_uri, search_options
from captioner_core.api.search import CaptionMatch, as_matches
from captioner_core.matching.loading import check_captions_table
from captioner_core.options import DEFAULT_ENCODER, PRETRAINED
from captioner_core.weights import preconditions


def similar_images(
    path: StrPath,
    tables: StrPath | Iterable[StrPath],
    *,
    top_k: int = 10,
    threshold: float = -1.0,
    model: StrPath = PRETRAINED,
    encoder: str = DEFAULT_ENCODER,
) -> list[CaptionMatch]:
    """Captions an image and returns the images whose captions are most similar.

    The model and the tables are loaded at each call. To compare the images of a whole folder, use
    ``captioner run``.

    >>> import captioner_core
    >>> matches = captioner_core.similar_images(
    ...     "new.jpg", "out/runs/run/captions", top_k=3
    ... )
    >>> [(match.image_id, round(match.score, 2)) for match in matches]
    [('beach.jpg', 0.98), ('dog.png', 0.67)]

    Args:
      path: The local path of the image.
      tables: The captions tables of runs or datasets, ``ROOT/runs/RUN_ID/captions`` or
        ``DATASET_DIR/captions.parquet``; or a single one.
      top_k: The largest number of matches.
      threshold: The lowest score of a match.
      model: The model that captions the image; see ``load_captioner``.
      encoder: The name of the text encoder, one of ``captioner_core.options.ENCODERS``.

    Returns:
      The matches, best first, without the image itself.

    Raises:
      CaptionerError: The file cannot be used as an image, a table or the model is missing or
        damaged, or an argument breaks its rule.
    """
    options = search_options(tables, encoder=encoder, top_k=top_k, threshold=threshold)
    image = as_uri("path", path)
    folder = as_model(model)
    for uri in options.index:
        check_captions_table(uri)
    preconditions.check_backbone()
    preconditions.check_encoder(options.encoder)
    finder = SimilarImageFinder(folder, options.index, options.encoder)
    found = finder.find(image, threshold=options.threshold, top_k=options.top_k)
    return as_matches(found.matches, found.locations)
