"""Reads a finished run with pandas and lists its weakest captions.

    python examples/weakest_captions.py RUN_DIR

A long caption has a lower probability than a short one, because the probabilities of its words are
multiplied. So captions are compared by the average log-probability of their words.
"""

from __future__ import annotations

import argparse

import pandas as pd

import captioner_core


def weakest_captions(run_dir: str, count: int) -> pd.DataFrame:
    """Returns the captions that the model was least sure of, the weakest first.

    Args:
      run_dir: The run's folder.
      count: The number of captions.

    Returns:
      The columns ``image_id``, ``caption`` and ``log_prob_per_word``.
    """
    run = captioner_core.read_run(run_dir)
    captions = run.read_table("captions", ["image_id", "caption", "log_prob", "n_tokens"])
    # The probability includes that of the caption's end, which n_tokens does not count.
    captions["log_prob_per_word"] = captions["log_prob"] / (captions["n_tokens"] + 1)
    ordered = captions.sort_values(["log_prob_per_word", "image_id"])
    return ordered[["image_id", "caption", "log_prob_per_word"]].head(count)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Lists the weakest captions of a run.")
    parser.add_argument("run_dir", help="folder of a run, ROOT/runs/RUN_ID")
    parser.add_argument("--count", type=int, default=10, help="number of captions (default: 10)")
    arguments = parser.parse_args()

    for breach in captioner_core.verify_run(arguments.run_dir):
        print(f"The run is damaged: {breach}")
    print(weakest_captions(arguments.run_dir, arguments.count).to_string(index=False))


if __name__ == "__main__":
    main()
