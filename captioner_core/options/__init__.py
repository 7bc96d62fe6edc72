"""What a user can ask for: frozen dataclasses that check themselves when they are made.

``fields`` says what an option is and which rules it keeps, ``command_line`` turns options into
arguments and back. Every other module holds the options of one kind of command.
"""

from captioner_core.options.choices import (
    AUTO,
    BACKBONES,
    COMBINED,
    DEFAULT_ENCODER,
    DEFAULT_ENGINE,
    ENCODERS,
    ENGINE_CHOICES,
    ENGINES,
    JOINT_ENCODERS,
    NO_TEACHER,
    PRECISIONS,
    PRETRAINED,
)
from captioner_core.options.command_line import (
    StoreOnce,
    add_arguments,
    arguments_of,
    from_namespace,
    given_options,
)
from captioner_core.options.fields import (
    check_absolute,
    check_collection,
    limits_text,
)
from captioner_core.options.images import CaptionOptions, ExtractOptions, ImageLimits, ImageOptions
from captioner_core.options.inbox import InboxOptions
from captioner_core.options.matching import (
    MatchOptions,
    SimilarityOptions,
    SimilarOptions,
    ThresholdsOptions,
)
from captioner_core.options.models import (
    CalibrateOptions,
    ConfidenceOptions,
    EvaluateOptions,
    ExportOptions,
    GateOptions,
    PromoteOptions,
    QuantizeOptions,
)
from captioner_core.options.runs import (
    BUILT_DATASETS,
    DATASET_RUN,
    NEW_RUN,
    LocalOptions,
    RunOptions,
)
from captioner_core.options.training import TrainEncoderOptions, TrainOptions

__all__ = [
    "AUTO",
    "BACKBONES",
    "BUILT_DATASETS",
    "COMBINED",
    "DATASET_RUN",
    "DEFAULT_ENCODER",
    "DEFAULT_ENGINE",
    "ENCODERS",
    "ENGINES",
    "ENGINE_CHOICES",
    "JOINT_ENCODERS",
    "NEW_RUN",
    "NO_TEACHER",
    "PRECISIONS",
    "PRETRAINED",
    "CalibrateOptions",
    "CaptionOptions",
    "ConfidenceOptions",
    "EvaluateOptions",
    "ExportOptions",
    "ExtractOptions",
    "GateOptions",
    "ImageLimits",
    "ImageOptions",
    "InboxOptions",
    "LocalOptions",
    "MatchOptions",
    "PromoteOptions",
    "QuantizeOptions",
    "RunOptions",
    "SimilarOptions",
    "SimilarityOptions",
    "StoreOnce",
    "ThresholdsOptions",
    "TrainEncoderOptions",
    "TrainOptions",
    "add_arguments",
    "arguments_of",
    "check_absolute",
    "check_collection",
    "from_namespace",
    "given_options",
    "limits_text",
]
