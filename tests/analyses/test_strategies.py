"""The way by which a completion reaches its answer."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgrpo.analyses.strategies import (
    MAX_EQUATIONS,
    chain_strategy,
    clusters,
    equations,
    is_countdown,
    similarity,
    sketches,
)
from rsgrpo.data.countdown import puzzles

pytest.importorskip("datasketch")

WORDS = [f"word{i}" for i in range(400)]


def grams(words):
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so x = 3.", {"3=x"}),
        ("$2x = 6$ and then $x=3$", {"2x=6", "3=x"}),
        (r"\[ a + b = c = 7 \]", {"a+b=c", "7=c"}),
        (r"6 = 2 \cdot 3", {"2*3=6"}),
        (r"2 \times 3 = 6", {"2*3=6"}),
        (r"\left( x+1 \right)^{2} = \dfrac{1}{2}", {r"(x+1)^2=\frac12"}),
        (r"x = \frac{12}{35}", {r"\frac{12}{35}=x"}),
        (r"therefore \boxed{x = 3}", {"3=x"}),
        (r"49{,}994 + 20{,}006 = 70,000", {"49994+20006=70000"}),
        ("0.5 * 3 = 1.5. Next, y = 2", {"0.5*3=1.5", "2=y"}),
        ("x = 3 & y = 4 \\\\ z = 5", {"3=x", "4=y", "5=z"}),
        ("the sum = total cost", set()),
        ("3 = 3", set()),
        ("= = =", set()),
        ("no equation", set()),
        ("", set()),
    ],
)
def test_equations_in_one_spelling(text, found):
    assert equations(text) == found


@pytest.mark.parametrize(
    "unit",
    ["=", "a=", "a=b ", "{", "}{", "\\", "\\{", "1,000", "$", "((", "\\text{", "\u202e=", "`"],
)
def test_hostile_text_of_a_million_characters_is_read(unit):
    text = unit * (1_000_000 // len(unit))
    assert len(equations(text)) <= MAX_EQUATIONS
    assert sketches([text])[0].shape == (128,)


def test_one_chain_of_equations_has_no_more_than_many_have():
    assert len(equations("=".join(map(str, range(20_000))))) == MAX_EQUATIONS
    assert len(equations("\n".join(f"x={i}" for i in range(10_000)))) == MAX_EQUATIONS


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_and_its_equations_are_pairs(text):
    assert all(len(equation.split("=")) >= 2 for equation in equations(text))
    assert sketches([text]).dtype == np.uint32


def test_minhash_estimates_the_exact_jaccard_index():
    rng = np.random.default_rng(0)
    exact, estimated = [], []
    for changed in range(0, 300, 10):
        one = list(WORDS)
        other = list(WORDS)
        for place in rng.choice(400, changed, replace=False):
            other[place] = f"other{place}"
        a, b = grams(one), grams(other)
        exact.append(len(a & b) / len(a | b))
        drawn = sketches([" ".join(w.translate(LETTERS) for w in words) for words in (one, other)])
        estimated.append(similarity(drawn[0], drawn[1:])[0])
    assert np.abs(np.subtract(exact, estimated)).max() < 0.15
    assert np.corrcoef(exact, estimated)[0, 1] > 0.98


# Tokens of the text are whole words: digits are spelled as letters.
LETTERS = str.maketrans("0123456789", "abcdefghij")


def test_real_completions_estimate_well_and_part_by_problem(shared_data):
    file = shared_data / "rollouts" / "qwen25math_cot100x8.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:160]]
    drawn = sketches([row["completion"] for row in rows])
    across = [
        similarity(drawn[i], drawn[j : j + 1])[0]
        for i, j in combinations(range(0, len(rows), 8), 2)
    ]
    assert max(across) < 0.2
    labels = clusters(drawn)
    of_problem = {}
    for row, label in zip(rows, labels, strict=True):
        assert of_problem.setdefault(label, row["problem_id"]) == row["problem_id"]
    assert 20 <= len(of_problem) <= len(rows)


def test_clusters_join_what_is_worded_alike_and_follow_the_order_of_sampling():
    letters = [word.translate(LETTERS) for word in WORDS]
    text, alike = " ".join(letters), " ".join([*letters[:-20], *letters[:20]])
    other = " ".join(reversed(letters))
    assert clusters(sketches([text, other, alike, other])) == [0, 1, 0, 1]
    assert clusters(sketches([])) == []


def test_chains_have_one_tree_up_to_order():
    one, other = chain_strategy("7 + 6 = 13 * 2 = 26"), chain_strategy("6 + 7 = 13 * 2 = 26")
    assert one == other
    assert one.operators == "+ *"
    twisted = chain_strategy("6 * 7 = 42 - 2 = 40")
    assert twisted.tree != one.tree and twisted.operators == "* -"


def test_a_wrong_chain_has_a_strategy_and_other_text_has_none():
    assert chain_strategy("7 + 6 = 99 * 2 = 1") == chain_strategy("7 + 6 = 13 * 2 = 26")
    for text in ("", "7 + 6 = 13", "7 ^ 6 = 13 * 2 = 26", "7 + 6 = 13 * 2 > 26", "= " * 9):
        assert chain_strategy(text) is None
    assert chain_strategy("٧ + 6 = 13 * 2 = 26") is None


def test_countdown_prompts_are_told_from_text():
    puzzle = puzzles()[0]
    assert is_countdown(f"{' '.join(map(str, puzzle.numbers))} > {puzzle.target} :")
    assert not is_countdown("What is 7 2 6 > 26 : ?")
    assert not is_countdown("")
