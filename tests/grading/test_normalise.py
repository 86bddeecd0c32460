r"""One spelling for what Math-Verify reads alike, and hands off everything else."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgrpo.grading.normalise import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"(3, \frac{\pi}{2})", r"(3,\frac{\pi}{2})"),
        (r"12 \frac{3}{5}", r"12\frac{3}{5}"),
        (r"(2, 12) \cup (12, 102)", r"(2, 12)\cup(12, 102)"),
        (r"2 \pi", r"2\pi"),
        (r"-\sqrt{ 3 } + 1", r"-\sqrt{3}+1"),
    ],
)
def test_spellings_of_one_answer_become_one(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x + h",  # h after a space is an hour to Math-Verify
        "3 000",  # the product of 3 and 0
        "(1, 234)",  # a pair, where (1,234) might be a number
        r"\dfrac{1}{2})(",  # searched for a fraction in the \frac spelling only
        r"[\sqrt{ -3}, 2]",  # no interval: searched for numbers after spaces
        r"\text{ a }",
        r"7E + 3",
        "\\dfrac{1}{2} " * 40,
    ],
)
def test_what_spacing_or_spelling_may_change_is_left_alone(text: str) -> None:
    assert normalise(text) == text


spaces = st.sampled_from(["", "", " ", "  "])
numbers = st.sampled_from(["0", "1", "7", "12", "0.5", "3.25", "345", "1000"])
letters = st.sampled_from(["x", "y", "h", "m", "s", "t", "i", "n", "a", r"\pi "])
fractions = st.sampled_from([r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"])


@st.composite
def sums(draw: st.DrawFn, atoms: st.SearchStrategy[str]) -> str:
    terms = [
        draw(st.sampled_from(["", "-"]))
        + draw(spaces)
        + draw(st.one_of(numbers, st.tuples(st.sampled_from(["", "2", "13 "]), atoms).map("".join)))
        + draw(spaces)
        for _ in range(draw(st.integers(1, 3)))
    ]
    return terms[0] + "".join(f"+{term.removeprefix('-')}" for term in terms[1:])


plain_sums = sums(letters)
expressions = sums(
    st.one_of(
        letters,
        st.builds("{}{{{}}}{{{}}}".format, fractions, plain_sums, plain_sums),
        st.builds(r"\sqrt{{{}}}".format, plain_sums),
    )
)
reals = sums(
    st.one_of(
        st.just(r"\pi"),
        st.builds("{}{{{}}}{{{}}}".format, fractions, numbers, st.sampled_from(["2", "7", "13"])),
        st.builds(r"\sqrt{{{}}}".format, st.sampled_from(["2", "10"])),
    )
)
brackets = st.sampled_from(
    [("(", ")"), ("[", "]"), ("(", "]"), (r"\left(", r"\right)"), (r"\left[", r"\right)")]
)
pairs = st.builds(lambda ends, a, b: f"{ends[0]}{a},{b}{ends[1]}", brackets, reals, reals)
points = st.lists(reals, min_size=2, max_size=4).map(
    lambda parts: rf"\left({','.join(parts)}\right)"
)
unions = st.builds(r"{}{}\cup{}{}".format, pairs, spaces, spaces, pairs)
answers = st.one_of(expressions, pairs, points, unions).map(str.strip)


@settings(max_examples=150, deadline=None)
@given(answers)
def test_math_verify_reads_the_one_spelling_as_it_reads_the_text(text: str) -> None:
    from math_verify import parse

    spelling = normalise(text)
    if spelling != text:
        # All but the last, which is the text itself as it was understood.
        before, after = (
            parse(f"\\boxed{{{each}}}", parsing_timeout=0) for each in (text, spelling)
        )
        assert len(before) == len(after) == 2
        assert before[:-1] == after[:-1]


@settings(max_examples=300)
@given(st.one_of(answers, st.text()))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    "piece", ["1", "x", " ", "1 ", "-1+", r"\frac{", r"\dfrac{1}{2}", "(1,", "^2"]
)
def test_a_hostile_text_is_turned_down_at_once(piece: str) -> None:
    start = time.process_time()
    for length in (199, 100_000):
        normalise((piece * length)[:length] + "!")
    assert time.process_time() - start < 1.0
