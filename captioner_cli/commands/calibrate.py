"""``captioner calibrate``: which cosine of an encoder is worth a score of 0.9."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options import (
    ENCODERS,
    add_arguments,
    check_fields,
    from_namespace,
    option,
    uri_option,
)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Options of a calibration."""

    encoder: str = option(help="encoder to calibrate", choices=ENCODERS)
    dataset: str = uri_option(help="dataset folder: captions.parquet", metavar="DIR")
    split: str = option(
        "dev", help="split whose captions are used", choices=("train", "dev", "test")
    )
    judge: str = option(
        "learned", help="encoder that judges which captions fit which images", choices=ENCODERS
    )
    output: str = uri_option(
        help="JSON file of calibrations in which that of the encoder is set", metavar="FILE"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.judge == self.encoder:
            raise CaptionerError(
                f"--judge {self.judge!r} must not be the encoder that is judged; choose another"
            )


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="fit the cosine at which an encoder's matches become right",
        description=(
            "Finds the least cosine above which four of five pairs of captions are right to match, as another encoder "
            "and the other captions of the images tell; it becomes the score 0.9."
        ),
    )
    add_arguments(parser, CalibrateOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(CalibrateOptions, namespace)
    from captioner_core.io.outputs import check_output_file, parse_object, replacing
    from captioner_core.text.encoders import load_encoder
    from captioner_core.text.encoders.calibration import fit_calibration, is_calibrations
    from captioner_core.text.encoders.judging import judge_pairs
    from captioner_core.training.dataset import read_captions_by_split

    check_output_file(
        options.output, is_own=is_calibrations, inputs={"--dataset": [options.dataset]}
    )
    captions = read_captions_by_split(options.dataset).get(options.split)
    if not captions:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split"
        )
    cosines, fits = judge_pairs(
        captions, load_encoder(options.encoder), load_encoder(options.judge)
    )
    calibration = fit_calibration(cosines, fits)
    reached = fits[cosines >= calibration.cosine]
    print(f"{len(fits)} pairs, {fits.mean():.3%} of which are right")
    print(
        f"{options.encoder}: cosine {calibration.cosine:.4f} becomes 0.9, which {len(reached)} pairs reach"
    )
    print(
        f"{reached.mean():.1%} of these are right: {reached.sum() / fits.sum():.2%} of all that are"
    )
    path = Path(options.output)
    known = parse_object(path.read_bytes()) or {} if path.exists() else {}
    listed = dict(sorted({**known, options.encoder: calibration.to_json()}.items()))
    with replacing(path, is_own=is_calibrations) as made:
        made.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    return 0
