"""Captions without images, which teach language where there are too few photographs."""

import sys
from collections.abc import Iterable, Sequence

from captioner_core.errors import CaptionerError
from captioner_core.text.vocabulary import tokenize
from captioner_core.training.dataset import TRAIN, read_captions_by_split


def read_language(folders: Sequence[str], held_out: Iterable[str]) -> list[list[str]]:
    """Returns the captions of datasets of captions alone, by image.

    Collections caption the same photographs, and copy captions from each other. So an image is left
    out if one of its captions, but for punctuation and case, is also that of an image on which
    models are chosen or tested.

    Args:
      folders: Dataset folders. All their captions must be in the split train.
      held_out: The captions of the splits dev and test of all datasets.

    Raises:
      CaptionerError: A folder has no captions in the split train.
    """
    known = {tuple(tokenize(text)) for text in held_out}
    kept = []
    for folder in folders:
        captions = read_captions_by_split(folder).get(TRAIN)
        if not captions:
            raise CaptionerError(
                f"--language {folder!r} has no captions in split {TRAIN!r}; make it with "
                "'captioner dataset csv' without --images"
            )
        unknown = [
            texts
            for texts in captions.values()
            if not any(tuple(tokenize(text)) in known for text in texts)
        ]
        if len(unknown) < len(captions):
            print(
                f"train: {len(captions) - len(unknown)} of {len(captions)} images of {folder!r} "
                "have a caption of a dev or test image and are left out",
                file=sys.stderr,
            )
        kept += unknown
    return kept
