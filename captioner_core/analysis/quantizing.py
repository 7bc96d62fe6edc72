"""Makes the int8 form of the feature network by post-training quantisation."""

from __future__ import annotations

import importlib.metadata
import logging
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.analysis.caption_metrics import read_pixels
from captioner_core.errors import CaptionerError
from captioner_core.features.base import INPUT_SIZE, load_backbone
from captioner_core.features.engines.openvino_engine import OpenVinoXception
from captioner_core.features.quantization import MODEL_CARD, QUANTIZATION, read_quantization
from captioner_core.features.xception_graph import build_network
from captioner_core.io import outputs
from captioner_core.io.tensors import Tensors, format_tensors
from captioner_core.options import QuantizeOptions
from captioner_core.process.openvino_setup import without_telemetry
from captioner_core.tables import layout
from captioner_core.training.dataset import read_captions_by_split
from captioner_core.weights import preconditions

KIND = "quantisation"
# The operations that stay float32: the sums of a block's output and its input, whose errors would
# add up from block to block, and the last convolution, whose outputs are the features.
_IN_FLOAT32 = (r"^block\d+$", r"^block14_sepconv2/.*$")


class Agreement(NamedTuple):
    """The agreement of the features of the int8 network with those of the float32 network.

    Args:
      images: The number of images compared.
      mean_cosine: The mean cosine of the averages of an image in both.
      lowest_cosine: The lowest one.
      mean_grid_cosine: The mean cosine of the grids of an image in both.
    """

    images: int
    mean_cosine: float
    lowest_cosine: float
    mean_grid_cosine: float

    def text(self) -> str:
        """Returns the figures as a part of a sentence."""
        return (
            f"{self.images} other images, the averages have a mean cosine of "
            f"{self.mean_cosine:.4f} to those in float32 (lowest {self.lowest_cosine:.4f}), "
            f"the grids one of {self.mean_grid_cosine:.4f}"
        )


class QuantizationReport(NamedTuple):
    """The outcome of ``quantize``.

    Args:
      images: The number of images that showed the ranges.
      agreement: The comparison with float32.
    """

    images: int
    agreement: Agreement


def quantize(options: QuantizeOptions) -> QuantizationReport:
    """Quantises Xception and writes the quantisation, with a model card, into a folder.

    The same dataset, options and versions give the same file.

    Raises:
      CaptionerError: NNCF is not installed, the dataset lacks a split, an image cannot be used, or
        the folder may not be written to.
    """
    preconditions.check_quantization()
    outputs.check_output_folder(options.output, kind=KIND, inputs={"--dataset": [options.dataset]})
    preconditions.check_backbone()
    calibration = _read_images(options, options.split)
    quantization = _quantize(calibration)
    agreement = _compare(quantization, _read_images(options, options.check_split))
    report = QuantizationReport(len(calibration), agreement)
    output = outputs.OutputFolder.claim(options.output, kind=KIND)
    output.stage(MODEL_CARD).write_text(_model_card(options, report), encoding="utf-8")
    output.stage(QUANTIZATION).write_bytes(format_tensors(quantization))
    output.publish((MODEL_CARD, QUANTIZATION), completion_file=QUANTIZATION)
    return report


def _read_images(options: QuantizeOptions, split: str) -> npt.NDArray[np.uint8]:
    """Returns randomly chosen images of a split, uint8 [images, INPUT_SIZE, INPUT_SIZE, 3]."""
    image_ids = sorted(read_captions_by_split(options.dataset).get(split, ()))
    if not image_ids:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {split!r}; choose another one"
        )
    count = min(options.images, len(image_ids))
    chosen = random.Random(options.seed).sample(image_ids, count)  # noqa: S311
    folder = Path(options.dataset).absolute() / layout.DATASET_IMAGES
    return np.stack([read_pixels(folder, image_id, INPUT_SIZE) for image_id in chosen])


def _quantize(images: npt.NDArray[np.uint8]) -> Tensors:
    """Returns the quantisation that suits some images."""
    with without_telemetry():
        import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    quantized = nncf.quantize(
        build_network(batch=1),
        nncf.Dataset([image[np.newaxis] for image in images]),
        # Ranges around 0 for kernels, any range for what lies between operations.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(patterns=list(_IN_FLOAT32)),
    )
    return read_quantization(quantized)


def _compare(quantization: Tensors, images: npt.NDArray[np.uint8]) -> Agreement:
    exact = load_backbone("xception").features(images)
    near = OpenVinoXception("int8", quantization)(images)
    cosines = _cosines(exact.averages, near.averages)
    return Agreement(
        images=len(images),
        mean_cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
        mean_grid_cosine=float(_cosines(exact.grid, near.grid).mean()),
    )


def _cosines(
    some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Returns the cosine of each row of an array to the same row of another one."""
    first = some.reshape(len(some), -1).astype(np.float64)
    second = others.reshape(len(others), -1).astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: npt.NDArray[np.float64] = (first * second).sum(axis=1) / lengths
    return cosines


def _model_card(options: QuantizeOptions, report: QuantizationReport) -> str:
    dataset = Path(options.dataset).name
    versions = " and ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("nncf", "openvino")
    )
    chosen = f"--split {options.split} --images {options.images} --seed {options.seed}"
    return f"""# Model card: Xception in int8

The ranges, scales and biases that turn Xception with ImageNet weights into an int8 network, found
by post-training quantisation with {versions}. It saw {report.images} images
of split {options.split} of `{dataset}`.

```sh
captioner quantize --dataset out/datasets/{dataset} {chosen} --output out/int8
```

## Figures

On {report.agreement.text()}.
`python -m bench.precision` compares captions and matches.

## Use

For processors that sum products of 8-bit integers in 32 bits (AVX512_VNNI, AVX_VNNI or AMX). On
others the sums would overflow, so captioner does not use it there.
"""
