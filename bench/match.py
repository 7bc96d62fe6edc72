"""Times the search of similar captions, beside faiss and scikit-learn, and beside spaCy by pairs.

    python -m bench.match [--captions N] [--rows N,N,N]

Each way runs in a process of its own, so that its peak memory can be measured. From the same
vectors, it finds the ten most similar other captions of each caption at a score of 0.9 or more.
Ours also answers by image, counts all matches that reach the threshold, and makes the rows of the
tables.

The first round compares 40,000 distinct captions with each other. In the second, the captions are
drawn from 1,000, because a captioner repeats itself. In the third, 40,000 captions are searched in
indexes of 10,000 to 1,000,000 other captions, all distinct, with ours and with faiss.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import pyarrow as pa  # noqa: E402

from captioner_core.matching import (  # noqa: E402
    ImageVectors,
    Search,
    candidate_count,
    group_images,
    make_caption_set,
    make_records,
    result_rows,
)
from captioner_core.matching.exact_search.projection import project_vectors  # noqa: E402
from captioner_core.text.encoders import TextEncoder, load_encoder  # noqa: E402

CAPTIONS = 40_000
REPEATED = 1_000
TOP_K = 10
THRESHOLD = 0.9
ROUNDS = 5
ROWS = (10_000, 100_000, 1_000_000)
SPACY_QUERIES = 20
SPACY_INDEXED = 1_000

Answer = tuple[int, float]
"""The number of matches, and the sum of their scores."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--distinct", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.way:
        return _run_way(args.way, args.captions, args.distinct, args.index)
    for distinct in (args.captions, REPEATED):
        _compare(args.captions, distinct)
    _grow(args.captions, [int(rows) for rows in args.rows.split(",") if rows])
    pairs = _run_in_process("spacy", SPACY_INDEXED, SPACY_INDEXED)
    print(f"\n{TITLES['spacy']}: {SPACY_QUERIES * SPACY_INDEXED / pairs['seconds']:,.0f} pairs/s")
    return 0


def _compare(captions: int, distinct: int) -> None:
    print(f"\n{captions:,} captions, {distinct:,} of them distinct; median of {ROUNDS} rounds")
    head = f"{'way':40} {'seconds':>8} {'(all)':>16} {'peak MB':>8} {'matches':>9}"
    print(f"{head} {'sum of scores':>14} {'ratio':>6}")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if name != "spacy"}
    for _ in range(ROUNDS):
        for name, taken in runs.items():
            taken.append(_run_in_process(name, captions, distinct))
    for name, taken in runs.items():
        ratio = statistics.median(
            peer["seconds"] / one["seconds"] for peer, one in zip(runs["faiss"], taken, strict=True)
        )
        seconds = [one["seconds"] for one in taken]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        last = taken[-1]
        middle = statistics.median(seconds)
        print(
            f"{TITLES[name]:40} {middle:8.2f} {spread:>16} {last['peak_mb']:8.0f} "
            f"{last['matches']:9.0f} {last['sum']:14.2f} {ratio:6.2f}",
            flush=True,
        )


def _grow(captions: int, sizes: Sequence[int]) -> None:
    print(f"\n{captions:,} captions against indexes of others, all distinct")
    print(f"{'way':40} {'rows':>10} {'seconds':>8} {'ns/pair':>10} {'peak MB':>8} {'matches':>9}")
    for rows in sizes:
        for name in ("faiss", "ours"):
            one = _run_in_process(name, captions, captions, rows)
            each = one["seconds"] / captions / rows * 1e9
            print(
                f"{TITLES[name]:40} {rows:10,} {one['seconds']:8.2f} {each:10.3f} "
                f"{one['peak_mb']:8.0f} {one['matches']:9.0f}",
                flush=True,
            )


def _run_in_process(way: str, captions: int, distinct: int, index: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.match", "--way", way, "--captions", str(captions)]
    command += ["--distinct", str(distinct), "--index", str(index)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _run_way(way: str, captions: int, distinct: int, index: int) -> int:
    """Times a way on captions against each other, or against ``index`` others, and prints JSON."""
    encoder = load_encoder("learned")
    texts = make_captions(captions, distinct)
    others = make_captions(index, index, seed=1) if index else None
    seconds, (matches, total) = WAYS[way](texts, others, encoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "matches": matches, "sum": total}))
    return 0


def make_captions(count: int, distinct: int, seed: int = 0) -> list[str]:
    """Returns captions of 6 to 12 words, drawn with the frequencies of human captions.

    Args:
      count: the number of captions.
      distinct: the number of distinct captions; the rest repeats them.
      seed: the seed of the random numbers.
    """
    counted = _counts()
    random = np.random.default_rng(seed)
    words = list(counted)
    weights = np.array(list(counted.values()), np.float64)
    drawn = random.choice(len(words), size=(distinct, 12), p=weights / weights.sum())
    lengths = random.integers(6, 13, distinct)
    listed = [
        f"{' '.join(words[w] for w in row[:n])} {i}"
        for i, (row, n) in enumerate(zip(drawn, lengths, strict=True))
    ]
    return [*listed, *(listed[index] for index in random.integers(0, distinct, count - distinct))]


def _counts() -> dict[str, int]:
    from importlib import resources

    from captioner_core.text.encoders.learned import SHIPPED, WORDS

    text = (resources.files("captioner_core") / SHIPPED / WORDS).read_text(encoding="utf-8")
    counts: dict[str, int] = json.loads(text)["words"]
    return counts


def _ours(texts: list[str], others: list[str] | None, encoder: TextEncoder) -> tuple[float, Answer]:
    queries = make_caption_set(_records(texts, "q"), encoder, searched=False)
    index = make_caption_set(
        _records(others or texts, "i" if others else "q"), encoder, searched=False
    )
    start = time.perf_counter()
    index = dataclasses.replace(
        index, projection=project_vectors(index.vectors)
    )  # what faiss does in add()
    groups = group_images(queries)
    search = Search(encoder.calibration, np.float32(THRESHOLD), candidate_count(TOP_K))
    results = search.run(queries, groups, index)
    matches, _ = result_rows(queries, groups, results, TOP_K, encoder, ImageVectors())
    seconds = time.perf_counter() - start
    return seconds, (
        len(matches),
        float(np.sum(matches.column("score").to_numpy(), dtype=np.float64)),
    )


def _records(texts: list[str], prefix: str) -> pa.Table:
    ids = [f"{prefix}{number:07d}.jpg" for number in range(len(texts))]
    return make_records(ids, texts, ["generated"] * len(texts))


def _faiss(
    texts: list[str], others: list[str] | None, encoder: TextEncoder
) -> tuple[float, Answer]:
    import faiss

    vectors = encoder.encode(texts)
    indexed = encoder.encode(others) if others else vectors
    start = time.perf_counter()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(indexed)
    cosines, found = index.search(vectors, TOP_K + 1)
    return _measure(start, cosines, found, encoder, has_own_index=others is not None)


def _sklearn(
    texts: list[str], others: list[str] | None, encoder: TextEncoder
) -> tuple[float, Answer]:
    from sklearn.neighbors import NearestNeighbors

    vectors = encoder.encode(texts)
    indexed = encoder.encode(others) if others else vectors
    start = time.perf_counter()
    search = NearestNeighbors(n_neighbors=TOP_K + 1, metric="cosine", algorithm="brute").fit(
        indexed
    )
    distances, found = search.kneighbors(vectors)
    return _measure(start, 1 - distances, found, encoder, has_own_index=others is not None)


def _measure(
    start: float,
    cosines: npt.NDArray[np.float32],
    found: npt.NDArray[np.int64],
    encoder: TextEncoder,
    *,
    has_own_index: bool,
) -> tuple[float, Answer]:
    """Returns the seconds since the start, and how many of the ten best results are matches."""
    scores = encoder.calibration.scores(np.clip(cosines.astype(np.float64), -1, 1))
    if not has_own_index:
        scores[found == np.arange(len(found))[:, None]] = -np.inf
    best = -np.sort(-scores, axis=1)[:, :TOP_K]
    kept = best[np.round(best, 6) >= np.float32(THRESHOLD)]
    return time.perf_counter() - start, (len(kept), float(kept.sum()))


def _spacy(
    texts: list[str], others: list[str] | None, encoder: TextEncoder
) -> tuple[float, Answer]:
    import spacy
    from spacy.vocab import Vocab

    from captioner_core.weights import assets

    language = spacy.blank("en", vocab=Vocab().from_disk(assets.spacy_vocab()))
    start = time.perf_counter()
    indexed = [language.make_doc(text) for text in texts]
    scores = [doc.similarity(other) for doc in indexed[:SPACY_QUERIES] for other in indexed]
    return time.perf_counter() - start, (len(scores), float(sum(scores)))


WAYS: dict[str, Callable[[list[str], list[str] | None, TextEncoder], tuple[float, Answer]]] = {
    "faiss": _faiss,
    "sklearn": _sklearn,
    "ours": _ours,
    "spacy": _spacy,
}
TITLES = {
    "faiss": "faiss IndexFlatIP",
    "sklearn": "scikit-learn NearestNeighbors, brute",
    "ours": "our exact search, rows included",
    "spacy": "spaCy Doc.similarity, pair by pair",
}

if __name__ == "__main__":
    sys.exit(main())
