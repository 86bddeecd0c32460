"""The entropy of a prompt's answers, brought to a common n."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.analyses.entropy import entropy, entropy_rows, miller_madow, rarefied_entropy
from rsgrpo.errors import UserError


def never(pairs):
    raise AssertionError(f"nothing was to be compared: {pairs}")


def wrong(*texts):
    return [(text, "incorrect") for text in texts]


def test_entropy_of_known_distributions():
    assert entropy([4, 4]) == pytest.approx(math.log(2))
    assert entropy([1] * 8) == pytest.approx(math.log(8))
    assert entropy([8]) == 0.0
    assert entropy([2, 1, 1]) == pytest.approx(1.5 * math.log(2))
    assert miller_madow([2, 1, 1]) == pytest.approx(1.5 * math.log(2) + 2 / 8)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_rarefied_entropy_agrees_with_the_enumeration_of_all_draws(class_counts, data):
    labels = [label for label, count in enumerate(class_counts) for _ in range(count)]
    to = data.draw(st.integers(1, len(labels)))
    drawn = [entropy(list(Counter(some).values())) for some in combinations(labels, to)]
    assert rarefied_entropy(class_counts, to) == pytest.approx(sum(drawn) / len(drawn), abs=1e-12)


def test_rarefied_entropy_at_1024_samples_is_finite_and_rises_with_n():
    counts = [512, 256, 128, 64, 32, 16, 16]
    curve = [rarefied_entropy(counts, to) for to in (1, 32, 256, 1024)]
    assert curve[0] == 0.0
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(entropy(counts))
    assert math.isnan(rarefied_entropy(counts, 1025))


def test_a_common_n_takes_the_bias_out_of_a_difference():
    # The same distribution seen through 8 and through 128 samples.
    rng = np.random.default_rng(0)
    few, many = (
        [np.bincount(rng.integers(0, 10, n), minlength=10) for _ in range(400)] for n in (8, 128)
    )
    plain = np.mean([entropy(list(c)) for c in many]) - np.mean([entropy(list(c)) for c in few])
    fair = np.mean([rarefied_entropy([int(m) for m in c if m], 8) for c in many]) - np.mean(
        [entropy(list(c)) for c in few]
    )
    assert plain > 0.4
    assert abs(fair) < 0.03


def test_before_and_after_with_a_paired_interval(write_graded):
    before = {f"p{i}": wrong("1", "2", "1", "2") for i in range(5)}
    after = {f"p{i}": wrong("1", "1", "1", "1") for i in range(5)}
    (row,) = entropy_rows([write_graded("before", before)], [write_graded("after", after)], never)
    half = math.log(2)
    assert (row["before"], row["after"]) == (pytest.approx(half), 0.0)
    for name in ("difference", "difference_low", "difference_high"):
        assert row[name] == pytest.approx(-half)
    assert row["before_corrected"] == pytest.approx(half + 1 / 8)
    assert row["after_corrected"] == 0.0
    assert row["token_before"] is row["token_after"] is None
    assert (row["n_samples"], row["n_prompts"]) == (4, 5)


def test_seeds_are_averaged(write_graded):
    flat, spread = {"p": wrong("1", "1")}, {"p": wrong("1", "2")}
    seeds = [write_graded("seed0", flat), write_graded("seed1", spread)]
    (row,) = entropy_rows([write_graded("base", flat)], seeds, never)
    assert row["difference"] == pytest.approx(math.log(2) / 2)


def test_token_entropy_is_the_mean_of_its_column(write_graded):
    before = write_graded("before", {"p": wrong("1", "1")}, mean_entropy=[1.0, 2.0])
    after = write_graded("after", {"p": wrong("1", "1")}, mean_entropy=[0.5, None])
    (row,) = entropy_rows([before], [after], never)
    assert (row["token_before"], row["token_after"]) == (1.5, 0.5)


def test_the_probe_set_must_be_the_same(write_graded):
    before = write_graded("before", {"p": wrong("1"), "q": wrong("1")})
    after = write_graded("after", {"p": wrong("1")})
    with pytest.raises(UserError, match=r"before.parquet has problem 'q' of set and .*after.parq"):
        entropy_rows([before], [after], never)
