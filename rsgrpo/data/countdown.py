"""Chain Countdown: the embedded task, small enough to be enumerated whole.

Three numbers from 1..15 and a target; each number is used once, left to right, and the chain shows
its intermediate results: the prompt `7 2 6 > 26 :` is answered by `7 + 6 = 13 * 2 = 26`. Since all
solutions of every prompt are known, counts of unique solutions have a true denominator.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import cache
from typing import NamedTuple

from rsgrpo.records import Problem, Verdict

LARGEST_NUMBER = 15
LARGEST_RESULT = 99
OPERATORS = "+-*/"
TIERS = {
    "T1": "+ only",
    "T2": "needs -",
    "T3": "* with +",
    "T4": "* otherwise",
    "T5": "/ with + -",
    "T6": "/ with * /",
}


class Chain(NamedTuple):
    """A left-to-right computation `a op1 b = mid op2 c = target`."""

    a: int
    op1: str
    b: int
    mid: int
    op2: str
    c: int
    target: int

    def __str__(self) -> str:
        """Return the answer's text, its ten tokens less the end token."""
        return f"{self.a} {self.op1} {self.b} = {self.mid} {self.op2} {self.c} = {self.target}"


class Puzzle(NamedTuple):
    """A multiset of numbers and a target, with its tier and every solution."""

    numbers: tuple[int, ...]
    target: int
    tier: str
    solutions: tuple[Chain, ...]


def evaluate(left: int, operator: str, right: int) -> int | None:
    """Return `left operator right`, or None where it is no integer in 0..99."""
    if operator == "/":
        result = left // right if right and left % right == 0 else None
    else:
        result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return result if result is not None and 0 <= result <= LARGEST_RESULT else None


@cache
def puzzles() -> tuple[Puzzle, ...]:
    """Enumerate the whole task: every multiset and target with at least one solution."""
    numbers = range(1, LARGEST_NUMBER + 1)
    return tuple(
        puzzle
        for multiset in itertools.combinations_with_replacement(numbers, 3)
        for puzzle in _puzzles_of(multiset)
    )


def solutions(problem: str) -> list[str]:
    """Return the text of every solution of a prompt, in a fixed order.

    Raises:
        ValueError: The prompt is not of the form `7 2 6 > 26 :`.
    """
    numbers, target = _read_prompt(problem)
    return [str(chain) for chain in _chains_of(tuple(sorted(numbers))) if chain.target == target]


def grade_chain(problem: str, completion: str, truncated: bool) -> Verdict:
    """Grade an answer by exact arithmetic on its tokens.

    Args:
        problem: The prompt, `7 2 6 > 26 :`.
        completion: The answer's tokens without the end token.
        truncated: Whether the end token is missing.
    """
    tokens = completion.split()
    answer = " ".join(tokens)
    if truncated or len(tokens) != 9:
        return Verdict(answer, "no_answer", False)
    correct = _is_solution(problem, tokens)
    return Verdict(answer, "correct" if correct else "incorrect", correct)


def canonical_tree(chain: str) -> str:
    """Return the expression tree of a chain up to commutativity and associativity.

    Chains with the same tree are the same solution written in another order: `7 + 6 = 13 * 2 = 26`
    and `6 + 7 = 13 * 2 = 26` are one. Runs of + and - (of * and /) become one sorted list.
    """
    a, op1, b, _, _, op2, c = chain.split()[:7]
    inner = [("+", a), (op1, b)] if op1 in "+-" else [("*", a), (op1, b)]
    if (op1 in "+-") == (op2 in "+-"):
        return _written([*inner, (op2, c)])
    return _written([("+" if op2 in "+-" else "*", _written(inner)), (op2, c)])


def to_problem(puzzle: Puzzle, order: tuple[int, ...], identity: str) -> Problem:
    """Return a puzzle as a prompt with its numbers in the given order."""
    text = f"{' '.join(map(str, order))} > {puzzle.target} :"
    return Problem(identity, text, str(puzzle.target), puzzle.tier)


def _written(terms: list[tuple[str, str]]) -> str:
    return "(" + " ".join(f"{operator}{term}" for operator, term in sorted(terms)) + ")"


def _puzzles_of(multiset: tuple[int, ...]) -> list[Puzzle]:
    by_target: dict[int, list[Chain]] = defaultdict(list)
    for chain in _chains_of(multiset):
        by_target[chain.target].append(chain)
    return [
        Puzzle(multiset, target, _tier(chains), tuple(chains))
        for target, chains in sorted(by_target.items())
    ]


@cache
def _chains_of(multiset: tuple[int, ...]) -> tuple[Chain, ...]:
    return tuple(
        Chain(a, op1, b, mid, op2, c, target)
        for a, b, c in sorted(set(itertools.permutations(multiset)))
        for op1 in OPERATORS
        if (mid := evaluate(a, op1, b)) is not None
        for op2 in OPERATORS
        if (target := evaluate(mid, op2, c))
    )


def _tier(chains: list[Chain]) -> str:
    return min(_operator_tier({chain.op1, chain.op2}) for chain in chains)


def _operator_tier(operators: set[str]) -> str:
    if "/" in operators:
        return "T5" if operators & {"+", "-"} else "T6"
    if "*" in operators:
        return "T3" if "+" in operators else "T4"
    return "T2" if "-" in operators else "T1"


def _read_prompt(problem: str) -> tuple[list[int], int]:
    tokens = problem.split()
    if len(tokens) != 6 or tokens[3] != ">" or tokens[5] != ":":
        raise ValueError(f"{problem!r} is no Countdown prompt: expected '7 2 6 > 26 :'")
    return [int(token) for token in tokens[:3]], int(tokens[4])


def _is_solution(problem: str, tokens: list[str]) -> bool:
    a, op1, b, equals, mid, op2, c, equals_again, target = tokens
    if equals != "=" or equals_again != "=" or op1 not in OPERATORS or op2 not in OPERATORS:
        return False
    terms = (a, b, mid, c, target)
    if not all(term.isascii() and term.isdigit() for term in terms):
        return False
    numbers, wanted = _read_prompt(problem)
    if sorted((int(a), int(b), int(c))) != sorted(numbers) or int(target) != wanted:
        return False
    middle = evaluate(int(a), op1, int(b))
    return middle == int(mid) and evaluate(middle, op2, int(c)) == wanted
