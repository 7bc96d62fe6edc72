"""The search: 40,000 captions against 40,000, ours beside faiss and scikit-learn, and beside spaCy pair by pair.

    python -m bench.match [--captions N] [--rows N,N,N]

Each way runs in a process of its own, so that its peak memory is its own, and finds for every caption
the ten most similar others at a score of 0.9 or more, of the same vectors. Ours also answers for images,
counts all that reach the threshold and makes the rows of the tables. A second round has the same number
of captions drawn from 1,000, as a captioner repeats itself. A third has indexes of 10,000 to 1,000,000
captions, all distinct, asked by 40,000 others, ours beside faiss.
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

from captioner_core.console.arguments import quiet_libraries

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

CAPTIONS, REPEATED, TOP_K, THRESHOLD, ROUNDS = 40_000, 1_000, 10, 0.9, 5
ROWS = (10_000, 100_000, 1_000_000)
SPACY_QUERIES, SPACY_INDEXED = 20, 1_000

Answer = tuple[int, float]
"""How many matches were found, and the sum of their scores."""


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
    asked = parser.parse_args(argv)
    if asked.way:
        return _one(asked.way, asked.captions, asked.distinct, asked.index)
    for distinct in (asked.captions, REPEATED):
        _compare(asked.captions, distinct)
    _grow(asked.captions, [int(rows) for rows in asked.rows.split(",") if rows])
    pairs = _apart("spacy", SPACY_INDEXED, SPACY_INDEXED)
    print(f"\n{TITLES['spacy']}: {SPACY_QUERIES * SPACY_INDEXED / pairs['seconds']:,.0f} pairs/s")
    return 0


def _compare(captions: int, distinct: int) -> None:
    print(
        f"\n{captions:,} captions, {distinct:,} of them distinct, against all others; median of {ROUNDS}"
    )
    print(
        f"{'way':40} {'seconds':>8} {'(all)':>16} {'peak MB':>8} {'matches':>9} {'sum of scores':>14} {'ratio':>6}"
    )
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if name != "spacy"}
    for _ in range(ROUNDS):
        for name, taken in runs.items():
            taken.append(_apart(name, captions, distinct))
    for name, taken in runs.items():
        ratio = statistics.median(
            peer["seconds"] / one["seconds"] for peer, one in zip(runs["faiss"], taken, strict=True)
        )
        seconds = [one["seconds"] for one in taken]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        last, middle = taken[-1], statistics.median(seconds)
        print(
            f"{TITLES[name]:40} {middle:8.2f} {spread:>16} {last['peak_mb']:8.0f} {last['matches']:9.0f} "
            f"{last['sum']:14.2f} {ratio:6.2f}",
            flush=True,
        )


def _grow(captions: int, sizes: Sequence[int]) -> None:
    print(f"\n{captions:,} captions against indexes of others, all distinct")
    print(f"{'way':40} {'rows':>10} {'seconds':>8} {'ns a pair':>10} {'peak MB':>8} {'matches':>9}")
    for rows in sizes:
        for name in ("faiss", "ours"):
            one = _apart(name, captions, captions, rows)
            each = one["seconds"] / captions / rows * 1e9
            print(
                f"{TITLES[name]:40} {rows:10,} {one['seconds']:8.2f} {each:10.3f} {one['peak_mb']:8.0f} "
                f"{one['matches']:9.0f}",
                flush=True,
            )


def _apart(way: str, captions: int, distinct: int, index: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.match", "--way", way, "--captions", str(captions)]
    command += ["--distinct", str(distinct), "--index", str(index)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _one(way: str, captions: int, distinct: int, index: int) -> int:
    """Captions against themselves, or against ``index`` others."""
    encoder = load_encoder("learned")
    texts = made_captions(captions, distinct)
    others = made_captions(index, index, seed=1) if index else None
    seconds, (matches, total) = WAYS[way](texts, others, encoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "matches": matches, "sum": total}))
    return 0


def made_captions(count: int, distinct: int, seed: int = 0) -> list[str]:
    """Captions of 6 to 12 words drawn as often as people use them; after the first ``distinct`` they repeat."""
    counted = _counts()
    random = np.random.default_rng(seed)
    words, weights = list(counted), np.array(list(counted.values()), np.float64)
    drawn = random.choice(len(words), size=(distinct, 12), p=weights / weights.sum())
    lengths = random.integers(6, 13, distinct)
    listed = [
        f"{' '.join(words[w] for w in row[:n])} {i}"
        for i, (row, n) in enumerate(zip(drawn, lengths, strict=True))
    ]
    return [*listed, *(listed[place] for place in random.integers(0, distinct, count - distinct))]


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
    return _told(start, cosines, found, encoder, apart=others is not None)


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
    return _told(start, 1 - distances, found, encoder, apart=others is not None)


def _told(
    start: float,
    cosines: npt.NDArray[np.float32],
    found: npt.NDArray[np.int64],
    encoder: TextEncoder,
    *,
    apart: bool,
) -> tuple[float, Answer]:
    """Of each row its first ten that are not itself and reach the threshold."""
    scores = encoder.calibration.scores(np.clip(cosines.astype(np.float64), -1, 1))
    if not apart:
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
