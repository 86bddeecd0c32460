"""Prompts that B solves and A does not, and the page that shows them."""

from __future__ import annotations

import re

import pytest

from rsgrpo.analyses.case_pages import case_page, fenced, plain_name, shortened, visible
from rsgrpo.analyses.cases import chain_ways, find_cases, text_ways
from rsgrpo.errors import UserError

pytest.importorskip("datasketch")

SUM = "Add the two numbers one after the other: first 20 + 20 = 40 and then 40 + 2 = 42, done."
PRODUCT = "Seven days of six hours each make a week of work, that is 6 * 7 = 42 hours altogether."
HOSTILE = (
    "```\n# Not a heading\n<script>alert(1)</script> <img src=x onerror=y>\n"
    "`````` [link](javascript:x) \u202egnp.exe\u202c \x1b[31mred\x1b[0m \x00 \u200b\r\n"
    "| a | b |\n|---|---|\n~~~~\n![image](https://example.org/pixel)\n"
)


def wrong(*completions):
    return [("41", "incorrect", completion) for completion in completions]


def right(*completions):
    return [("42", "correct", completion) for completion in completions]


def test_cases_come_in_the_order_of_evidence(write_graded):
    a = write_graded(
        "a",
        {
            "solved": right(SUM) + wrong(SUM),
            "few": wrong(SUM, SUM),
            "often": wrong(SUM, SUM),
            "rare": wrong(SUM, SUM),
            "more of A": wrong(*[SUM] * 9),
            "never": wrong(SUM),
        },
    )
    b = write_graded(
        "b",
        {
            "solved": right(SUM),
            "few": right(SUM) + wrong(SUM),
            "often": right(SUM, SUM, SUM) + wrong(SUM),
            "rare": right(SUM) + wrong(*[SUM] * 3),
            "more of A": right(SUM) + wrong(SUM),
            "never": wrong(SUM),
        },
    )
    found = find_cases([a], [b])
    names = [case.tally.prompt.problem_id for case in found.shown]
    assert names == ["often", "more of A", "few", "rare"]
    assert (found.found, found.n_prompts) == (4, 6)
    assert found.shown[0].tally[1:] == (3, 4, 2)
    assert found.shown[1].tally.p_value == pytest.approx(2 / 11)
    assert [c.tally.prompt.problem_id for c in find_cases([a], [b], 2).shown] == names[:2]


def test_only_the_samples_of_chosen_prompts_are_kept(write_graded):
    a = write_graded("a", {"p": wrong(SUM), "q": wrong(PRODUCT)})
    b = write_graded("b", {"p": right(SUM), "q": wrong(PRODUCT)})
    (case,) = find_cases([a], [b]).shown
    assert case.others == [SUM]
    assert [way.completion for way in case.ways] == [SUM]


def test_samples_of_all_seeds_are_taken_together(write_graded):
    a0, a1 = write_graded("a0", {"p": wrong(SUM)}), write_graded("a1", {"p": right(SUM)})
    b = write_graded("b", {"p": right(SUM)})
    assert find_cases([a0], [b]).found == 1
    assert find_cases([a0, a1], [b]).found == 0
    two = find_cases([a0, write_graded("a2", {"p": wrong(PRODUCT)})], [b]).shown[0]
    assert (two.tally.n_other, two.ways[0].new) == (2, False)


def test_the_seed_chooses_among_the_completions_of_a(write_graded):
    texts = [f"{SUM} {word}" for word in ("one", "two", "three", "four", "five")]
    a, b = write_graded("a", {"p": wrong(*texts)}), write_graded("b", {"p": right(SUM)})
    orders = [find_cases([a], [b], seed=seed).shown[0].others for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(texts)


def test_trees_and_operators_absent_from_all_of_as_samples_are_new():
    others = ["2 + 3 = 5 * 4 = 21", "4 * 3 = 12 - 2 = 10", "no chain at all"]
    correct = ["3 + 2 = 5 * 4 = 20", "4 * 3 = 12 + 8 = 20", "4 * 3 = 12 + 8 = 20"]
    new, old = chain_ways(correct, others)
    assert (new.n, new.completion, new.new) == (2, correct[1], True)
    assert [(t.kind, t.new) for t in new.traits] == [("tree", True), ("operators", True)]
    assert (old.n, old.new) == (1, False)
    assert [t.new for t in old.traits] == [False, False]
    swapped = chain_ways(["5 + 4 = 9 * 2 = 18"], others)[0]
    assert [t.new for t in swapped.traits] == [True, False]


def test_clusters_and_equation_sets_absent_from_all_of_as_samples_are_new():
    new, old = text_ways([SUM, PRODUCT, PRODUCT, f"{PRODUCT} Yes."], ["nothing", SUM])
    assert (new.n, new.completion) == (3, PRODUCT)
    assert [t.new for t in new.traits] == [True, True]
    assert "1 equations, 1 in none of A's samples\n    42=6*7" in new.traits[1].value
    assert (old.n, old.completion) == (1, SUM)
    assert [t.new for t in old.traits] == [False, False]
    assert old.traits[0].value == "nearest of A's samples 1.00"


def test_a_text_without_equations_has_no_new_set_of_them():
    (way,) = text_ways(["It is plain that the answer must be six."], [SUM])
    assert way.traits[1].value.startswith("0 equations") and not way.traits[1].new


def test_the_embedded_task_is_known_by_its_prompts(write_graded):
    prompts = {"p": right("3 + 2 = 5 * 4 = 20")}
    a = write_graded("a", {"p": wrong("3 + 2 = 5 * 4 = 21")}, problem="2 3 4 > 20 :")
    b = write_graded("b", prompts, problem="2 3 4 > 20 :")
    (case,) = find_cases([a], [b]).shown
    assert case.ways[0].traits[0].kind == "tree"
    page = case_page(find_cases([a], [b]), "a", "b")
    assert "### Strategy 1 of 1: strategy that A has too, 1 of 1 correct samples" in page


def test_the_page_shows_both_completions_side_by_side(write_graded):
    a, b = write_graded("a", {"p": wrong(SUM)}), write_graded("b", {"p": right(PRODUCT)})
    page = case_page(find_cases([a], [b]), "run a", "b")
    assert page.startswith("# Solved by `b` and not by `run_a`\n")
    assert "B solves it in 1 of 1 samples, A in 0 of 1" in page
    assert "### Strategy 1 of 1: **new strategy**, 1 of 1 correct samples" in page
    rows = [line.split(" | ") for line in page.splitlines() if " | " in line]
    assert rows[0] == ["A (wrong)".ljust(58), "B (correct)"]
    left, right_ = (
        " ".join(row[side].strip() for row in rows[1:] if len(row) > side).strip()
        for side in (0, 1)
    )
    assert (left, right_) == (SUM, PRODUCT)


def test_hostile_completions_are_shown_and_never_rendered(write_graded):
    markdown_it = pytest.importorskip("markdown_it")
    a = write_graded("a", {"p`<b>": wrong(HOSTILE, HOSTILE * 500)}, benchmark="x`<script>|\n# y")
    b = write_graded("b", {"p`<b>": right(HOSTILE)}, benchmark="x`<script>|\n# y", problem=HOSTILE)
    page = case_page(find_cases([a], [b]), "<i>`a", "# b\n")
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    kinds = {token.type for token in tokens}
    inline = {child.type for token in tokens for child in token.children or ()}
    assert kinds == {"heading_open", "heading_close", "paragraph_open", "paragraph_close"} | {
        "inline",
        "fence",
    }
    assert inline <= {"text", "code_inline", "strong_open", "strong_close", "softbreak"}
    headings = [token.content for token in tokens if token.type == "inline"]
    assert not any("Not a heading" in text or "script>" in text for text in headings)
    fences = "".join(token.content for token in tokens if token.type == "fence")
    assert fences.count("<script>alert(1)</script>") >= 3
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200b\u202a-\u202e\u2066-\u2069]", page)
    assert r"\u{202e}gnp.exe" in page and r"\u{1b}[31m" in page and r"\u{0}" in page


@pytest.mark.parametrize("text", ["```", "a ````` b", "`" * 999, "~~~", "", "\n" * 5])
def test_a_fence_is_longer_than_any_run_in_its_text(text):
    first, *_, last = fenced(text).split("\n")
    assert first == f"{last}text" and set(last) == {"`"} and len(last) >= 3
    assert last not in text


def test_what_is_left_out_of_a_long_text_is_said():
    text = "a" * 3000 + "b" * 10_000 + "c" * 1000
    assert shortened(text) == "a" * 3000 + "\n[... 10000 characters left out ...]\n" + "c" * 1000
    assert shortened("a" * 4000) == "a" * 4000


def test_names_and_hidden_signs_are_spelled_out():
    assert plain_name("a b|`<c>\n/d-1.parquet") == "a_b___c__/d-1.parquet"
    assert visible("a\tb\r\nc\rd") == "a    b\nc\\u{d}d"
    assert visible("x²≤π 数学 é") == "x²≤π 数学 é"
    assert visible("\ud800\u2028") == r"\u{d800}\u{2028}"


def test_refuses_in_one_sentence(write_graded):
    a, b = write_graded("a", {"p": wrong(SUM)}), write_graded("b", {"q": right(SUM)})
    with pytest.raises(
        UserError, match=r"a.parquet has problem 'p' of set and .*b.parquet has not"
    ):
        find_cases([a], [b])
    with pytest.raises(UserError, match="n is 0"):
        find_cases([a], [a], 0)
