"""Unique answers and solutions per prompt, at a common n."""

from __future__ import annotations

from itertools import combinations

import pytest

from rsgrpo.analyses.unique import unique_rows
from rsgrpo.errors import UserError

TEXTS = {
    "long way": "First we add two and three which is 2 + 3 = 5 and then we double it: 5 * 2 = 10.",
    "short way": "Twice the sum, so (2+3) \\cdot 2 = 10, as doubling a sum doubles both parts.",
}


def never(pairs):
    raise AssertionError(f"nothing was to be compared: {pairs}")


def differ(pairs):
    return ["incorrect"] * len(pairs)


def mean_distinct(labels, to):
    drawn = list(combinations(labels, to))
    return sum(len({label for label in some if label is not None}) for some in drawn) / len(drawn)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_rarefied_counts_agree_with_the_enumeration_of_all_draws(write_graded, n):
    one, other = TEXTS.values()
    samples = [
        ("10", "correct", one),
        ("10", "correct", one),
        ("10", "correct", other),
        ("7", "incorrect", one),
        ("", "no_answer", other),
    ]
    (row,) = unique_rows([write_graded("a", {"p": samples})], never, n=n)
    assert row["unique_answers"] == pytest.approx(mean_distinct([0, 0, 0, 1, 2], n))
    assert row["unique_solutions"] == pytest.approx(mean_distinct([0, 0, 1, None, None], n))
    assert row["unique_workings"] == pytest.approx(mean_distinct([0, 0, 1, None, None], n))
    assert (row["n_samples"], row["n_prompts"]) == (n, 1)


def test_files_are_compared_at_the_smallest_n(write_graded):
    few = {"p": [("1", "incorrect"), ("2", "incorrect")], "q": [("1", "incorrect")] * 2}
    many = {"p": [(str(i), "incorrect") for i in range(6)], "q": [("1", "incorrect")] * 6}
    rows = unique_rows([write_graded("few", few), write_graded("many", many)], never)
    assert [(row["file"], row["n_samples"], row["unique_answers"]) for row in rows] == [
        ("few", 2, pytest.approx(1.5)),
        ("many", 2, pytest.approx(1.5)),
    ]


def test_the_interval_is_a_bootstrap_over_prompts(write_graded):
    prompts = {"p": [("1", "incorrect"), ("2", "incorrect")], "q": [("1", "incorrect")] * 2}
    (row,) = unique_rows([write_graded("a", prompts)], never, resamples=1000)
    assert (row["unique_answers_low"], row["unique_answers_high"]) == (1.0, 2.0)
    assert row["unique_solutions"] == row["unique_solutions_high"] == 0.0


def test_several_files_are_compared_prompt_by_prompt(write_graded):
    flat = {f"p{i}": [("1", "incorrect")] * 4 for i in range(5)}
    spread = {f"p{i}": [("1", "incorrect"), ("2", "incorrect")] * 2 for i in range(5)}
    rows = unique_rows([write_graded("flat", flat), write_graded("spread", spread)], never)
    gains = [[row[f"answers_gain{bound}"] for bound in ("", "_low", "_high")] for row in rows]
    assert gains == [[None] * 3, [1.0] * 3]
    assert rows[1]["solutions_gain"] == rows[1]["solutions_gain_high"] == 0.0


def test_the_embedded_task_counts_trees_and_operator_sequences(write_graded):
    chains = ["2 + 3 = 5 * 4 = 20", "3 + 2 = 5 * 4 = 20", "4 * 3 = 12 + 8 = 20"]
    samples = [(chain, "correct", chain) for chain in chains]
    file = write_graded("a", {"p": samples}, problem="2 3 4 > 20 :")
    (row,) = unique_rows([file], never)
    assert [row[f"unique_{of}"] for of in ("answers", "solutions", "workings")] == [3, 2, 2]


def test_capped_prompts_are_counted(write_graded):
    prompts = {"p": [(letter, "incorrect") for letter in "abcd"], "q": [("a", "incorrect")] * 4}
    (row,) = unique_rows([write_graded("a", prompts)], differ, pairs=3)
    assert (row["capped_prompts"], row["undecided_pairs"]) == (1, 0)
    (row,) = unique_rows([write_graded("a", prompts)], differ, pairs=6)
    assert row["capped_prompts"] == 0


def test_benchmarks_have_rows_and_their_mean_is_uniform(write_graded, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = write_graded("one", {"p": [("1", "incorrect"), ("2", "incorrect")]}, benchmark="x")
    two = write_graded(
        "two", {"q": [("1", "incorrect")] * 2, "r": [("1", "incorrect")] * 2}, benchmark="y"
    )
    both = tmp_path / "both.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(one), pq.read_table(two)]), both)
    rows = unique_rows([both], never)
    found = {row["benchmark"]: (row["n_prompts"], row["unique_answers"]) for row in rows}
    assert found == {"x": (1, 2.0), "y": (2, 1.0), "mean": (3, 1.5)}


def test_refuses_in_one_sentence(write_graded):
    one = write_graded("one", {"p": [("1", "incorrect")] * 2})
    with pytest.raises(UserError, match=r"n is 3 and .*one.parquet has only 2 samples of problem"):
        unique_rows([one], never, n=3)
    with pytest.raises(UserError, match="n is 0"):
        unique_rows([one], never, n=0)
    other = write_graded("other", {"p": [("1", "incorrect")], "q": [("1", "incorrect")]})
    with pytest.raises(UserError, match=r"other.parquet has problem 'q' of set and .*one.parquet"):
        unique_rows([one, other], never)
