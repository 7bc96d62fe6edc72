"""Finds the images of a finished run whose captions are most similar to a sentence.

    python examples/search_run.py RUN_DIR "a red car on a road"

RUN_DIR is the folder that ``captioner run`` has written, such as out/runs/run.
"""

from __future__ import annotations

import argparse

import captioner_core


def search_run(run_dir: str, sentence: str, top_k: int) -> None:
    """Prints the images most similar to a sentence, best first.

    Args:
      run_dir: The run's folder.
      sentence: The sentence.
      top_k: The number of images.
    """
    run = captioner_core.read_run(run_dir)
    matches = captioner_core.search_captions(sentence, run.table_path("captions"), top_k=top_k)
    for match in matches:
        print(f"{match.rank:3}  {match.score:.3f}  {match.path or match.image_id}")
        print(f"            {match.caption}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Searches a run by a sentence.")
    parser.add_argument("run_dir", help="folder of a run, ROOT/runs/RUN_ID")
    parser.add_argument("sentence", help="what the images should show")
    parser.add_argument("--top-k", type=int, default=5, help="number of images (default: 5)")
    arguments = parser.parse_args()
    search_run(arguments.run_dir, arguments.sentence, arguments.top_k)


if __name__ == "__main__":
    main()
