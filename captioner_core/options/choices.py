"""Names and numbers that options may have."""

from __future__ import annotations

DEFAULT_ENCODER = "learned"
DEFAULT_EPOCHS = 15
DEFAULT_RUN_ID = "run"
PRETRAINED = "pretrained"
"""The name of the model that comes with the package."""
ENCODERS = ("learned", "spacy-content", "spacy-mean", "tfidf", "minilm")
JOINT_ENCODERS = ("learned",)
"""The encoders that map images and captions into one space."""
NO_TEACHER = "none"
BACKBONES = ("xception", "xception-mirrored")
AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "int8")
PRECISION_CHOICES = (AUTO, *PRECISIONS)
DEFAULT_ENGINE = "openvino"
"""The engine for processors. It needs no TensorFlow, whose import takes seconds."""
ENGINES = (DEFAULT_ENGINE, "tensorflow")
ENGINE_CHOICES = (AUTO, *ENGINES)
SCORE = "score"
COMBINED = "combined"
RANK_BY = (SCORE, COMBINED)
MAX_COLLECTION_LENGTH = 200
MAX_PIXELS_LIMIT = 178_956_970
"""The size at which Pillow suspects a decompression bomb."""
