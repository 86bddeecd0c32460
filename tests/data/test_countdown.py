"""The embedded task: enumeration, verifier, canonical trees."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.data.countdown import (
    TIERS,
    canonical_tree,
    evaluate,
    grade_chain,
    puzzles,
    solutions,
)

PROMPT = "7 2 6 > 26 :"


def brute_force(numbers: list[int], target: int) -> set[str]:
    """All solutions by trying everything with exact fractions."""
    apply = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: Fraction(a) / b if b else None,
    }
    found = set()
    for (a, b, c), op1, op2 in product(permutations(numbers), "+-*/", "+-*/"):
        mid = apply[op1](a, b)
        if mid is None or mid != int(mid) or not 0 <= mid <= 99:
            continue
        end = apply[op2](int(mid), c)
        if end == target:
            found.add(f"{a} {op1} {b} = {int(mid)} {op2} {c} = {target}")
    return found


def test_the_task_has_the_published_tiers() -> None:
    counts = Counter(puzzle.tier for puzzle in puzzles())
    assert counts == {"T1": 680, "T2": 1744, "T3": 1874, "T4": 2461, "T5": 679, "T6": 219}
    assert list(counts) and set(counts) == set(TIERS)


def test_solutions_agree_with_brute_force_on_every_97th_puzzle() -> None:
    for puzzle in puzzles()[::97]:
        prompt = f"{' '.join(map(str, puzzle.numbers))} > {puzzle.target} :"
        assert set(solutions(prompt)) == brute_force(list(puzzle.numbers), puzzle.target)
        assert all(grade_chain(prompt, text, False).correct for text in solutions(prompt))


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("7 + 6 = 13 * 2 = 26", "correct"),
        ("6 + 7 = 13 * 2 = 26", "correct"),
        ("7 + 6 = 14 * 2 = 26", "incorrect"),
        ("7 + 6 = 13 * 2 = 27", "incorrect"),
        ("7 + 7 = 14 * 2 = 28", "incorrect"),
        ("13 + 13 = 26 + 0 = 26", "incorrect"),
        ("7 + 6 = 13 * 2 =", "no_answer"),
        ("", "no_answer"),
        ("7 + 6 * 13 * 2 = 26", "incorrect"),
        ("a + b = c * d = e", "incorrect"),
        ("__import__('os') + 6 = 13 * 2 = 26", "incorrect"),
        ("² + 6 = 13 * 2 = 26", "incorrect"),
    ],
)
def test_the_verifier_checks_every_token(completion: str, verdict: str) -> None:
    assert grade_chain(PROMPT, completion, False).verdict == verdict


def test_an_answer_without_its_end_token_is_no_answer() -> None:
    assert grade_chain(PROMPT, "7 + 6 = 13 * 2 = 26", True).verdict == "no_answer"


def test_division_is_exact_and_never_by_zero() -> None:
    assert evaluate(6, "/", 3) == 2
    assert evaluate(7, "/", 3) is None
    assert evaluate(7, "/", 0) is None
    assert evaluate(2, "-", 3) is None
    assert evaluate(50, "+", 50) is None


def test_reordered_chains_are_one_tree_and_others_are_not() -> None:
    assert canonical_tree("7 + 6 = 13 * 2 = 26") == canonical_tree("6 + 7 = 13 * 2 = 26")
    assert canonical_tree("9 - 2 = 7 + 3 = 10") == canonical_tree("9 + 3 = 12 - 2 = 10")
    assert canonical_tree("8 / 2 = 4 * 3 = 12") == canonical_tree("8 * 3 = 24 / 2 = 12")
    assert canonical_tree("2 * 3 = 6 + 4 = 10") != canonical_tree("3 + 4 = 7 * 2 = 14")
    assert canonical_tree("4 + 2 = 6 / 3 = 2") != canonical_tree("4 - 2 = 2 * 3 = 6")


@given(st.sampled_from(puzzles()))
def test_trees_are_at_most_as_many_as_solutions_and_values_agree(puzzle) -> None:  # type: ignore[no-untyped-def]
    trees = {canonical_tree(str(chain)) for chain in puzzle.solutions}
    assert 1 <= len(trees) <= len(puzzle.solutions)


@given(st.text(max_size=60))
def test_no_text_breaks_the_verifier(text: str) -> None:
    assert grade_chain(PROMPT, text, False).verdict in ("correct", "incorrect", "no_answer")
