"""Which problems of a training set are also in a benchmark, word for word or nearly so.

Exact: the same text once it is lower case and only `[a-z0-9]` is left. Near: among the 13-word
shingles of both texts at least half are common to both (Jaccard). MinHash proposes pairs well below
that threshold; their true Jaccard index decides, so that no estimate is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rsgrpo.records import Problem

SHINGLE_WORDS = 13
NEAR_JACCARD = 0.5
NEAR_RULE = f"{SHINGLE_WORDS}-word shingles, Jaccard >= {NEAR_JACCARD:g}"
_PROPOSED_JACCARD = 0.3
_PERMUTATIONS = 128


class Overlap(NamedTuple):
    """A training problem and the benchmark problem that it repeats."""

    train_id: str
    benchmark: str
    benchmark_id: str
    kind: Literal["exact", "near"]


class OverlapCount(NamedTuple):
    """How many problems of a benchmark are in a training set, and in how many of its rows."""

    benchmark: str
    problems: int
    exact: int
    exact_rows: int
    near: int | None
    near_rows: int | None


def comparable(text: str) -> str:
    """Return a text's letters and digits in lower case: `[a-z0-9]`.

    A text that is mostly in another script keeps all its letters; its digits alone say too little.
    """
    lower = text.lower()
    ascii_only = re.sub(r"[^a-z0-9]+", "", lower)
    everything = re.sub(r"[\W_]+", "", lower)
    return ascii_only if 2 * len(ascii_only) >= len(everything) else everything


def exact_overlaps(
    train: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]]
) -> list[Overlap]:
    """Return each pair of a training row and a benchmark problem with the same letters and digits.

    Args:
        train: The training set.
        benchmarks: The problems of each benchmark, by its name.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for name, problems in benchmarks.items():
        for problem in problems:
            places.setdefault(comparable(problem.problem), []).append((name, problem.id))
    places.pop("", None)
    return [
        Overlap(row.id, name, identity, "exact")
        for row in train
        for name, identity in places.get(comparable(row.problem), ())
    ]


def near_overlaps(
    train: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]]
) -> list[Overlap]:
    """Return each pair that shares at least half of its 13-word shingles; exact pairs as well.

    Texts of fewer than 13 words have no shingle and match nothing.
    """
    known = {
        (name, problem.id): shingles
        for name, problems in benchmarks.items()
        for problem in problems
        if (shingles := _shingles(problem.problem))
    }
    own = {row.id: shingles for row in train if (shingles := _shingles(row.problem))}
    return [
        Overlap(train_id, *place, "near")
        for train_id, place in _proposed(own, known)
        if _jaccard(own[train_id], known[place]) >= NEAR_JACCARD
    ]


def find_overlaps(
    train: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]], near: bool = True
) -> list[Overlap]:
    """Return the exact pairs and, if asked, the near pairs that are not exact."""
    exact = exact_overlaps(train, benchmarks)
    if not near:
        return exact
    known = {pair[:3] for pair in exact}
    return exact + [pair for pair in near_overlaps(train, benchmarks) if pair[:3] not in known]


def count_overlaps(
    pairs: Sequence[Overlap], benchmarks: Mapping[str, Sequence[Problem]], near: bool
) -> list[OverlapCount]:
    """Return one row for each benchmark; the near counts are None where near was not asked for."""
    rows = []
    for name, problems in benchmarks.items():
        exact, exact_rows = _counted(pairs, name, "exact")
        close, close_rows = _counted(pairs, name, "near") if near else (None, None)
        rows.append(OverlapCount(name, len(problems), exact, exact_rows, close, close_rows))
    return rows


def _counted(pairs: Sequence[Overlap], benchmark: str, kind: str) -> tuple[int, int]:
    chosen = [pair for pair in pairs if pair.benchmark == benchmark and pair.kind == kind]
    return len({pair.benchmark_id for pair in chosen}), len({pair.train_id for pair in chosen})


def _shingles(text: str) -> frozenset[bytes]:
    words = re.findall(r"[^\W_]+", text.lower())
    starts = range(len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in starts)


def _jaccard(left: frozenset[bytes], right: frozenset[bytes]) -> float:
    return len(left & right) / len(left | right)


def _proposed(
    own: Mapping[str, frozenset[bytes]], known: Mapping[tuple[str, str], frozenset[bytes]]
) -> Iterator[tuple[str, tuple[str, str]]]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=_PROPOSED_JACCARD, num_perm=_PERMUTATIONS)
    sketches = MinHash.generator([sorted(s) for s in known.values()], num_perm=_PERMUTATIONS)
    for place, sketch in zip(known, sketches, strict=True):
        index.insert(place, sketch)
    sketches = MinHash.generator([sorted(s) for s in own.values()], num_perm=_PERMUTATIONS)
    for train_id, sketch in zip(own, sketches, strict=True):
        yield from ((train_id, place) for place in sorted(index.query(sketch)))
