from __future__ import annotations

from tests.beam_jobs.conftest import load_models, model_dir, photos  # noqa: F401  fixtures
