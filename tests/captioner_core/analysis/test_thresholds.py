"""The table of thresholds agrees with counting every pair."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.analysis import thresholds
from captioner_core.analysis.thresholds import threshold_rows
from captioner_core.datasets import sample
from captioner_core.errors import CaptionerError
from captioner_core.tables.schemas import DATASET_CAPTIONS_SCHEMA, DatasetCaptionRow, rows_as_table
from captioner_core.text.encoders.calibration import Calibration, YesCurve
from tests.fakes import HashedWords

CURVE = YesCurve(intercept=-4.0, slope=6.0)


class Calibrated(HashedWords):
    """An encoder with a curve of agreement."""

    calibration = Calibration(0.7, CURVE)


@pytest.fixture
def table(tmp_path):
    """Returns the path of a table of captions, and its different image ids and captions."""
    texts = [*(sample.write_captions(number)[0] for number in range(12)), "x", "zz yy"]
    rows = [
        DatasetCaptionRow(f"{n % 9}.jpg", n, text, "train")
        for n, text in enumerate([*texts, texts[0], texts[1]])
    ]
    pq.write_table(rows_as_table(rows, "r", DATASET_CAPTIONS_SCHEMA), tmp_path / "captions.parquet")
    return str(tmp_path / "captions.parquet"), sorted({(row.image_id, row.caption) for row in rows})


@pytest.mark.parametrize("block", [3, 100])
def test_the_table_equals_counting_every_pair(table, monkeypatch, block):
    monkeypatch.setattr(thresholds, "INDEX_BLOCK", block)
    uri, records = table
    encoder = Calibrated()
    vectors = encoder.encode([caption for _, caption in records]).astype(np.float64)
    scores = []
    for one, (image, _) in zip(vectors, records, strict=True):
        for other, (other_image, _) in zip(vectors, records, strict=True):
            if image != other_image and one.any() and other.any():
                scores.append(
                    round(float(encoder.calibration.scores(np.clip(one @ other, -1, 1))), 6)
                )
    shares = CURVE.shares(encoder.calibration.cosines(np.array(scores)))
    for row in threshold_rows(uri, encoder):
        reached = np.array(scores) >= row.threshold
        assert row.matches == pytest.approx(reached.sum() / len(records))
        if reached.any():
            # The table counts pairs in bins of scores.
            assert row.yes_share == pytest.approx(shares[reached].mean(), abs=0.01)
            assert row.recall == pytest.approx(shares[reached].sum() / shares.sum(), abs=0.01)


@pytest.mark.assets
def test_the_command_prints_a_table_and_draws_a_plot(table, tmp_path, capsys):
    assert main(["thresholds", "--captions", table[0], "--output", str(tmp_path / "plot.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(thresholds.THRESHOLDS) + 1
    assert (tmp_path / "plot.svg").read_text().count("<path") > 10
    assert (
        main(["thresholds", "--captions", table[0], "--output", str(tmp_path / "no" / "plot.svg")])
        == 2
    )


def test_a_table_of_one_image_is_refused(tmp_path):
    rows = [DatasetCaptionRow("a.jpg", 0, "a dog", "train")]
    pq.write_table(rows_as_table(rows, "r", DATASET_CAPTIONS_SCHEMA), tmp_path / "one.parquet")
    with pytest.raises(CaptionerError, match="fewer than two images"):
        threshold_rows(str(tmp_path / "one.parquet"), Calibrated())
