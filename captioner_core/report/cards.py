"""Chooses the images that a report shows and collects what it says about each of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from captioner_core.report.pictures import (
    CARD_SIDE,
    MATCH_SIDE,
    Gallery,
    ImageFinder,
    Picture,
)
from captioner_core.report.run_reader import ImageKey, Row, RunReader
from captioner_core.tables import layout

T = TypeVar("T")

_CAPTION_COLUMNS = ("image_id", "caption", "log_prob")
_SUMMARY_COLUMNS = (
    "query_image_id",
    "query_collection",
    "query_caption",
    "status",
    "n_above_threshold",
    "best_score",
    "best_match_image_id",
    "best_match_collection",
)
_MATCH_COLUMNS = (
    "query_image_id",
    "query_collection",
    "rank",
    "match_image_id",
    "match_collection",
    "match_caption",
    "match_source",
    "score",
    "feature_score",
    "image_text_score",
    "is_duplicate",
)


@dataclass(frozen=True)
class Match:
    """A match on a card; see ``MatchRow``. Unknown scores are None."""

    rank: int
    picture: Picture
    image_id: str
    collection: str | None
    caption: str
    source: str
    score: float
    feature_score: float | None
    image_text_score: float | None
    is_duplicate: bool


@dataclass(frozen=True)
class NearestImage:
    """The most similar image to one without matches, with those of its captions that are known."""

    picture: Picture
    image_id: str
    collection: str | None
    captions: list[str]


@dataclass(frozen=True)
class Card:
    """An image of the run with its caption and its matches.

    Args:
      image_id: the image.
      collection: the collection of the image.
      picture: its picture.
      caption: its caption.
      log_prob: natural logarithm of the caption's probability, or None.
      status: of its row in match_summary; None if it has none.
      n_above: number of images whose score reaches the threshold.
      best_score: score of the most similar image, or None.
      matches: its matches, best first.
      closest: the most similar image; only given if there are no matches.
    """

    image_id: str
    collection: str | None
    picture: Picture
    caption: str
    log_prob: float | None
    status: str | None
    n_above: int
    best_score: float | None
    matches: list[Match]
    closest: NearestImage | None


def list_images(run: RunReader, captioned: bool) -> list[ImageKey]:
    """Returns the images that a report is about, in order.

    Args:
      run: the run.
      captioned: whether the run captioned images. If it did not, the query images of its matches
        are returned.
    """
    if captioned:
        own = run.own_collection
        rows = run.rows(layout.CAPTIONS, ("image_id",))
        images = {ImageKey(row["image_id"], own) for row in rows}
    else:
        rows = run.rows(layout.MATCH_SUMMARY, ("query_image_id", "query_collection"))
        images = {_query_image(row) for row in rows}
    return sorted(images, key=lambda image: (image.image_id, image.collection or ""))


def sample_evenly(items: Sequence[T], limit: int) -> list[T]:
    """Returns at most ``limit`` items at even distances, in order, with the first and the last.

    >>> sample_evenly("abcdefghi", 3)
    ['a', 'e', 'i']
    """
    if len(items) <= limit:
        return list(items)
    if limit < 2:
        return list(items[:limit])
    return [items[number * (len(items) - 1) // (limit - 1)] for number in range(limit)]


@dataclass
class _ImageRows:
    caption: Row | None = None
    summary: Row | None = None
    matches: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class _PictureSource:
    finder: ImageFinder
    gallery: Gallery

    def show(self, image: ImageKey, side: int, caption: str = "") -> Picture:
        """Returns the picture of an image; see ``ImageFinder.location`` and ``Gallery.show``."""
        location = self.finder.location(image.image_id, caption, image.collection)
        return self.gallery.show(location, side)


def make_cards(run: RunReader, images: Sequence[ImageKey], gallery: Gallery) -> list[Card]:
    """Returns the cards of some images of a run.

    Args:
      run: the run.
      images: the images, in the order of the cards.
      gallery: the page's pictures; those of the cards are added to it.
    """
    rows = _read_rows(run, images)
    images_folder = run.options.get("images")
    trusted = [run.run_dir, *([images_folder] if isinstance(images_folder, str) else [])]
    finder = ImageFinder(run.captions_tables, _mentioned_ids(rows.values(), images), trusted)
    pictures = _PictureSource(finder, gallery)
    return [_card(image, rows[image], pictures) for image in images]


def _read_rows(run: RunReader, images: Sequence[ImageKey]) -> dict[ImageKey, _ImageRows]:
    """Returns the rows about each image; tables may hold other images with the same ids."""
    ids = [image.image_id for image in images]
    own = run.own_collection
    rows = {image: _ImageRows() for image in images}
    for row in run.rows(layout.CAPTIONS, _CAPTION_COLUMNS, ids):
        rows.setdefault(ImageKey(row["image_id"], own), _ImageRows()).caption = row
    for row in run.rows(layout.MATCH_SUMMARY, _SUMMARY_COLUMNS, ids):
        rows.setdefault(_query_image(row), _ImageRows()).summary = row
    for row in run.rows(layout.MATCHES, _MATCH_COLUMNS, ids):
        rows.setdefault(_query_image(row), _ImageRows()).matches.append(row)
    return rows


def _mentioned_ids(rows: Iterable[_ImageRows], images: Iterable[ImageKey]) -> set[str]:
    ids = {image.image_id for image in images}
    for about in rows:
        ids.update(match["match_image_id"] for match in about.matches)
        if about.summary and about.summary["best_match_image_id"]:
            ids.add(about.summary["best_match_image_id"])
    return ids


def _query_image(row: Row) -> ImageKey:
    return ImageKey(row["query_image_id"], row["query_collection"])


def _card(image: ImageKey, rows: _ImageRows, pictures: _PictureSource) -> Card:
    summary = rows.summary
    caption = ""
    if rows.caption:
        caption = rows.caption["caption"]
    elif summary:
        caption = summary["query_caption"]
    closest = None
    if summary and summary["best_match_image_id"] and not rows.matches:
        closest = _nearest_image(summary, pictures)
    return Card(
        image_id=image.image_id,
        collection=image.collection,
        picture=pictures.show(image, CARD_SIDE, caption),
        caption=caption,
        log_prob=_none_if_nan(rows.caption["log_prob"]) if rows.caption else None,
        status=summary["status"] if summary else None,
        n_above=summary["n_above_threshold"] if summary else 0,
        best_score=_none_if_nan(summary["best_score"]) if summary else None,
        matches=[
            _match(row, pictures) for row in sorted(rows.matches, key=lambda row: row["rank"])
        ],
        closest=closest,
    )


def _nearest_image(summary: Row, pictures: _PictureSource) -> NearestImage:
    image = ImageKey(summary["best_match_image_id"], summary["best_match_collection"])
    captions = pictures.finder.captions(image.image_id, image.collection)
    return NearestImage(pictures.show(image, MATCH_SIDE), *image, captions)


def _match(row: Row, pictures: _PictureSource) -> Match:
    image = ImageKey(row["match_image_id"], row["match_collection"])
    return Match(
        rank=row["rank"],
        picture=pictures.show(image, MATCH_SIDE, row["match_caption"]),
        image_id=image.image_id,
        collection=image.collection,
        caption=row["match_caption"],
        source=row["match_source"],
        score=row["score"],
        feature_score=_none_if_nan(row["feature_score"]),
        image_text_score=_none_if_nan(row["image_text_score"]),
        is_duplicate=row["is_duplicate"],
    )


def _none_if_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
