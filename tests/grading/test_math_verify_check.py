"""One check with Math-Verify, in this process, on answers that are known to be harmless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.grading.verify import Check, check, equal_at_sight


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("5", " 5 ", True),
        (r"\frac{1}{2}", r"\frac{1}{2}", True),
        ("9^{9^{9^9}}", "9^{9^{9^9}}", True),
        ("7", "007", True),
        ("7", "+7", True),
        ("7", "-7", False),
        ("7", "8", False),
        ("7", "7.0", None),
        ("1000", "1,000", None),
        ("1" * 19, "1" * 20, None),
        ("5", "\uff15", None),
    ],
)
def test_strings_and_integers_are_compared_at_sight(
    gold: str, text: str, expected: bool | None
) -> None:
    assert equal_at_sight(gold, text) is expected


@given(st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_integers_are_equal_at_sight_exactly_when_they_are(a: int, b: int) -> None:
    assert equal_at_sight(str(a), f"{b:+d}") is (a == b)


@pytest.mark.parametrize(
    ("gold", "text", "verdict"),
    [
        (r"\frac{1}{2}", "0.5", "correct"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", "correct"),
        (r"\{1, 2\}", r"\{2, 1\}", "correct"),
        ("x^2-1", "(x-1)(x+1)", "correct"),
        ("5", "6.5", "incorrect"),
        ("5", "no idea", "incorrect"),
    ],
)
def test_a_box_is_judged_as_mathematics(gold: str, text: str, verdict: str) -> None:
    assert check(gold, text, "boxed") == Check(verdict, text)


def test_a_full_text_is_searched_for_its_answer() -> None:
    assert check("72", "She sold 48 + 24. A: 72", "full") == Check("correct", "72")
    assert check("72", r"Since $x + 1 = 73$, it is \boxed{72}.", "full") == Check("correct", "72")
    assert check("72", "I cannot tell.", "full") == Check("no_answer", "")


@pytest.mark.parametrize("text", ["5", "5.5", r"\frac{10}{2}"])
def test_both_modes_agree_on_a_text_that_is_one_box(text: str) -> None:
    boxed = check("5", text, "boxed")
    assert check("5", f"\\boxed{{{text}}}", "full").verdict == boxed.verdict
