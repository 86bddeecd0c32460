"""Which prompts does one policy solve that another does not, and is the way that it takes new?

A prompt is a case where B has a correct sample and A has none. A way of B's correct samples is new
where it is absent from all of A's samples, right or wrong.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.analyses.samples import Prompt, aligned, checked_batches, read_verdicts
from rsgrpo.analyses.strategies import (
    SIMILAR,
    chain_strategy,
    clusters,
    equations,
    is_countdown,
    similarity,
    sketches,
)
from rsgrpo.analyses.transitions import fisher_exact
from rsgrpo.errors import UserError

_COLUMNS = ("benchmark", "problem_id", "problem", "answer", "sample_index", "completion", "correct")


class Trait(NamedTuple):
    """One look at a way: its kind, its value as text, and whether none of A's samples has it."""

    kind: str
    value: str
    new: bool


class Way(NamedTuple):
    """One strategy of B's correct samples: how many take it, its traits and its first sample."""

    n: int
    traits: list[Trait]
    completion: str

    @property
    def new(self) -> bool:
        """Whether the strategy itself, its first trait, is absent from A."""
        return self.traits[0].new


class Tally(NamedTuple):
    """A prompt by its counts: `c` of `n` samples of B are correct, none of `n_other` of A."""

    prompt: Prompt
    c: int
    n: int
    n_other: int

    @property
    def p_value(self) -> float:
        """Fisher's exact test of equal accuracy."""
        return fisher_exact(0, self.n_other, self.c, self.n)


class Case(NamedTuple):
    """A prompt that B solves and A does not, with B's ways and as many completions of A."""

    tally: Tally
    problem: str
    answer: str
    ways: list[Way]
    others: list[str]


class Cases(NamedTuple):
    """The cases shown, and among how many prompts there were how many."""

    shown: list[Case]
    found: int
    n_prompts: int


class _Text(NamedTuple):
    problem: str
    answer: str
    completion: str
    correct: bool


def find_cases(a: Sequence[Path], b: Sequence[Path], count: int = 10, seed: int = 0) -> Cases:
    """Return the prompts that B solves and A does not, those with the most evidence first.

    Args:
        a: The graded files of A, one for each seed; their samples are taken together.
        b: Those of B, on the same prompts.
        count: Cases at most, by B's share of correct samples, then by the number of A's samples.
        seed: Seed of the choice among A's completions.

    Raises:
        UserError: A file cannot be used, the prompts differ, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"n is {count}: ask for 1 prompt or more")
    prompts, read = aligned({str(f): read_verdicts(f) for f in (*a, *b)})
    sides = [[[v for f in files for v in read[str(f)][p]] for p in prompts] for files in (a, b)]
    tallies = [
        Tally(prompt, sum(theirs), len(theirs), len(ours))
        for prompt, ours, theirs in zip(prompts, *sides, strict=True)
        if not any(ours) and any(theirs)
    ]
    tallies.sort(key=lambda t: (-t.c / t.n, -t.n_other, t.prompt))
    chosen = {tally.prompt for tally in tallies[:count]}
    benchmarks = {prompt.benchmark for prompt in prompts}
    only = benchmarks.pop() if len(benchmarks) == 1 else None
    ours, theirs = _texts(a, chosen, only), _texts(b, chosen, only)
    rng = random.Random(seed)
    shown = [_case(t, ours[t.prompt], theirs[t.prompt], rng) for t in tallies[:count]]
    return Cases(shown, len(tallies), len(prompts))


def chain_ways(correct: Sequence[str], others: Sequence[str]) -> list[Way]:
    """Return the expression trees among correct Countdown chains, new or met in other samples.

    Args:
        correct: B's correct completions.
        others: All of A's completions.
    """
    met = [chain for chain in map(chain_strategy, others) if chain]
    trees, operators = {chain.tree for chain in met}, {chain.operators for chain in met}
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for completion in correct:
        chain = chain_strategy(completion)
        tree = chain.tree if chain else completion
        first.setdefault(tree, completion)
        counts[tree] += 1
    ways = []
    for tree, completion in first.items():
        chain = chain_strategy(completion)
        signs = chain.operators if chain else ""
        traits = [
            Trait("tree", tree, tree not in trees),
            Trait("operators", signs, signs not in operators),
        ]
        ways.append(Way(counts[tree], traits, completion))
    return _in_order(ways)


def text_ways(correct: Sequence[str], others: Sequence[str]) -> list[Way]:
    """Return the MinHash clusters among correct texts, with their equations, new or met elsewhere.

    Args:
        correct: B's correct completions.
        others: All of A's completions.
    """
    drawn, met = sketches(correct), sketches(others)
    met_sets = [equations(other) for other in others]
    met_equations = frozenset().union(*met_sets)
    members: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(clusters(drawn)):
        members[label].append(place)
    ways = []
    for places in members.values():
        nearest = max(similarity(drawn[place], met).max(initial=0.0) for place in places)
        written = equations(correct[places[0]])
        fresh = sorted(written - met_equations, key=lambda e: (len(e), e))
        traits = [
            Trait("MinHash cluster", f"nearest of A's samples {nearest:.2f}", nearest < SIMILAR),
            Trait(
                "equation set",
                f"{len(written)} equations, {len(fresh)} in none of A's samples"
                + "".join(f"\n    {equation}" for equation in fresh[:8]),
                bool(written) and written not in met_sets,
            ),
        ]
        ways.append(Way(len(places), traits, correct[places[0]]))
    return _in_order(ways)


def _in_order(ways: list[Way]) -> list[Way]:
    return sorted(ways, key=lambda way: (not way.new, -way.n))


def _case(tally: Tally, ours: list[_Text], theirs: list[_Text], rng: random.Random) -> Case:
    problem = theirs[0].problem
    correct = [text.completion for text in theirs if text.correct]
    others = [text.completion for text in ours]
    ways = chain_ways if is_countdown(problem) else text_ways
    return Case(
        tally,
        problem,
        theirs[0].answer,
        ways(correct, others),
        rng.sample(others, len(others)),
    )


def _texts(
    files: Sequence[Path], chosen: Collection[Prompt], only: str | None
) -> Mapping[Prompt, list[_Text]]:
    # `only` is the name of the benchmark where there is but one, whatever a file calls it.
    found: dict[Prompt, list[tuple[int, int, _Text]]] = defaultdict(list)
    for place, file in enumerate(files):
        for batch in checked_batches(file, _COLUMNS):
            for row in _rows_of(batch, chosen):
                prompt = Prompt(only or row["benchmark"], row["problem_id"])
                text = _Text(*(row[name] for name in _Text._fields))
                if prompt in chosen:
                    found[prompt].append((place, row["sample_index"], text))
    return {prompt: [text for *_, text in sorted(texts)] for prompt, texts in found.items()}


def _rows_of(batch: Any, chosen: Collection[Prompt]) -> list[dict[str, Any]]:
    # Completions of other prompts stay in Arrow's buffers, which the next batch replaces.
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.array([prompt.problem_id for prompt in chosen], pa.string())
    rows: list[dict[str, Any]] = batch.filter(pc.is_in(batch["problem_id"], ids)).to_pylist()
    return rows
