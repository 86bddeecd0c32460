"""The last box of a completion."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.grading.extract import extract_answer, last_boxed

PIECES = st.sampled_from(
    ["\\boxed{", "\\fbox{", "\\boxed {", "\\boxed", "{", "}", "\\{", "\\}", "\\", "\\\\", "x", " 7"]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{5} and then \boxed{6}.", "6"),
        (r"\fbox{7}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\\boxed{9}", "9"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed{3} but \boxed{4", "3"),
        (r"{ \boxed{2}", "2"),
        (r"} \boxed{2}", "2"),
        (r"\boxed{}", ""),
        (r"\boxed{4", None),
        (r"\boxed 4", None),
        (r"\boxedtext{4}", None),
        ("the answer is 4", None),
        ("", None),
    ],
)
def test_last_balanced_box_is_read(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


def _box_by_box(text: str) -> str | None:
    # The same rule from the other end: for each box, the last first, look for its closing brace.
    starts = [at for at in range(len(text)) if text.startswith(("\\boxed", "\\fbox"), at)]
    for at in reversed(starts):
        brace = at + (6 if text.startswith("\\boxed", at) else 5)
        while text[brace : brace + 1] == " ":
            brace += 1
        if text[brace : brace + 1] != "{":
            continue
        end = _closing_brace(text, brace)
        if end is not None:
            return text[brace + 1 : end].strip()
    return None


def _closing_brace(text: str, brace: int) -> int | None:
    depth, at = 0, brace
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in ("{", "}"):
            at += 2
            continue
        if text.startswith("\\\\", at) and not _opens_box(text, at + 1):
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
        at += 1
    return None


def _opens_box(text: str, at: int) -> bool:
    rest = text[at:]
    name = next((name for name in ("\\boxed", "\\fbox") if rest.startswith(name)), None)
    return name is not None and rest.removeprefix(name).lstrip(" ").startswith("{")


@given(st.lists(PIECES, max_size=30).map("".join))
def test_agrees_with_a_search_box_by_box(text: str) -> None:
    assert last_boxed(text) == _box_by_box(text)


@given(st.text())
def test_any_text_is_read_without_a_fault(text: str) -> None:
    found = last_boxed(text)
    assert found is None or found in text


@given(st.text(alphabet="abc123 ^_+-", min_size=1), st.text(alphabet="xyz{ "))
def test_balanced_content_comes_back_whole(content: str, before: str) -> None:
    assert last_boxed(f"{before}\\boxed{{{{{content}}}}}") == f"{{{content}}}"


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "{", "}", "\\", "\\boxed   ", "\\\\boxed", "\\boxed{}", "\\boxed{{}", " "]
)
def test_a_hostile_megabyte_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    last_boxed(text)
    last_boxed(f"\\boxed{text}")
    assert time.process_time() - start < 5.0


def test_full_mode_hands_on_the_whole_text() -> None:
    assert extract_answer(" it is \\boxed{5} ", "full") == "it is \\boxed{5}"
    assert extract_answer(" \n", "full") is None


def test_an_empty_or_missing_box_is_no_answer() -> None:
    assert extract_answer("\\boxed{ }", "boxed") is None
    assert extract_answer("it is 5", "boxed") is None
    assert extract_answer("\\boxed{5}", "boxed") == "5"
