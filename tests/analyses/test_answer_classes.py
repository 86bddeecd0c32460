"""Which answers are one answer: spelling, Math-Verify, and the union of both."""

from __future__ import annotations

import pytest

from rsgrpo.analyses.answer_classes import (
    Answered,
    answer_classes,
    normalised,
    pool_judge,
    spelling_classes,
)
from rsgrpo.grading.pool import GradingPool

pytest.importorskip("math_verify")


def wrong(*texts):
    return [Answered(text, "incorrect") for text in texts]


@pytest.fixture(scope="module")
def judge():
    with GradingPool(timeout=20.0) as pool:
        yield pool_judge(pool)


def never(pairs):
    raise AssertionError(f"nothing was to be compared: {pairs}")


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("1/2", "1/2"),
        ("0.5", "1/2"),
        (".50", "1/2"),
        (r"\frac{1}{2}", "1/2"),
        (r"$\dfrac12$", "1/2"),
        (r"\tfrac{2}{4}.", "1/2"),
        ("-007", "-7"),
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        ("3 1/2", "3 1/2"),
        (r"3\  1 / 2 ", "3 1/2"),
        (r"1\,234", "1234"),
        ("1/0", "1/0"),
        ("9" * 400, "9" * 400),
        (r"\leftarrow", r"\leftarrow"),
        ("", ""),
    ],
)
def test_spellings_are_normalised(text, spelling):
    assert normalised(text) == spelling


def test_halves_are_one_class_without_math_verify():
    (found,) = answer_classes([wrong("1/2", "0.5", r"\frac{1}{2}", "2", "3")], never)
    assert found.labels == [0, 0, 0, 1, 2]
    assert found.counts == [3, 1, 1]


def test_a_mixed_number_is_no_improper_fraction(judge):
    (found,) = answer_classes([wrong("3 1/2", "31/2", "10 20", "1020")], judge)
    assert found.labels == [0, 1, 2, 3]


def test_math_verify_joins_what_spelling_does_not(judge):
    texts = [r"\frac{\sqrt{8}}{2}", r"\sqrt{2}", "x+1", "1+x", "2^3", "8", r"\{1,2\}", r"\{2,1\}"]
    (found,) = answer_classes([wrong(*texts)], judge)
    assert found.labels == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (found.capped, found.undecided) == (False, 0)


def test_all_correct_answers_are_one_class_and_no_answer_is_another():
    samples = [
        Answered("a", "correct"),
        Answered("b", "correct"),
        Answered("", "no_answer"),
        Answered("", "no_answer"),
        Answered("", "incorrect"),
        Answered("a", "timeout"),
        Answered("b", "error"),
    ]
    (found,) = answer_classes([samples], never)
    assert found.labels == [0, 0, 1, 1, 2, 3, 4]


def test_union_closes_over_chains_and_never_over_prompts():
    def same(pairs):
        return ["correct" if pair in {("a", "b"), ("b", "c")} else "incorrect" for pair in pairs]

    first, second = answer_classes([wrong("a", "b", "c", "d"), wrong("c", "a")], same)
    assert first.labels == [0, 0, 0, 1]
    assert second.labels == [0, 1]


def test_a_cap_keeps_the_pairs_of_the_commonest_answers_and_is_said():
    asked = []

    def note(pairs):
        asked.extend(pairs)
        return ["incorrect"] * len(pairs)

    (found,) = answer_classes([wrong("a", "b", "c", "c", "b", "c")], note, pairs=2)
    assert asked == [("c", "b"), ("c", "a")]
    assert (found.capped, found.counts) == (True, [3, 2, 1])
    (found,) = answer_classes([wrong("a", "b", "c", "c", "b", "c")], note, pairs=3)
    assert not found.capped


def test_an_answer_that_takes_for_ever_counts_as_different_and_is_counted():
    with GradingPool(timeout=1.0) as pool:
        samples = wrong("9^{9^{9^{9}}}", "5.5", "5.5")
        (found,) = answer_classes([samples], pool_judge(pool))
    assert found.counts == [2, 1]
    assert found.undecided == 1


@pytest.mark.parametrize("text", ["}{", r"\boxed{7}", "a}b", "{", "\\"])
def test_an_answer_that_would_be_read_as_another_is_never_compared(text):
    (found,) = answer_classes([wrong(text, "7")], never)
    assert found.counts == [1, 1]


def test_the_embedded_task_goes_by_spelling_with_no_answer_apart():
    samples = [
        Answered("1 + 2 = 3 * 4 = 12", "correct"),
        Answered("2 + 1 = 3 * 4 = 12", "correct"),
        Answered("1 + 2 =", "no_answer"),
        Answered("1 +", "no_answer"),
        Answered("1 + 2 = 3 * 4 = 12", "correct"),
    ]
    assert spelling_classes(samples).counts == [2, 2, 1]
