"""maj@k against the enumeration of all subsets, its error, and its interval against simulation."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from rsgrpo.evaluation.majority import DRAWS, Majority, majority, mean_majority

# Sizes of the classes of equal answers, the correct one first, and samples without an answer.
PROMPTS = [
    ([3, 2, 1], 0),
    ([2, 3, 1], 1),
    ([1, 1, 1, 1], 2),
    ([4], 3),
    ([2, 2, 2], 0),
    ([1, 5], 1),
    ([0, 3, 2], 2),
    ([7], 0),
    ([0], 5),
    ([2, 1, 1, 1, 1], 2),
]


def every_subset(classes: list[int], silent: int, k: int) -> float:
    """The share of right outcomes over all k-subsets, a tie counting its share."""
    answers = [label for label, size in enumerate(classes) for _ in range(size)] + [-1] * silent
    total, subsets = Fraction(0), 0
    for subset in combinations(answers, k):
        votes = Counter(label for label in subset if label >= 0)
        most = max(votes.values(), default=0)
        winners = [label for label, count in votes.items() if count == most]
        total += Fraction(int(0 in winners), max(len(winners), 1))
        subsets += 1
    return float(total / subsets)


@pytest.mark.parametrize(("classes", "silent"), PROMPTS)
def test_maj_at_k_agrees_with_the_enumeration_of_all_subsets(classes, silent):
    n = sum(classes) + silent
    ks = range(1, n + 1)
    found = majority([np.array(classes)], [n], ks, draws=20_000, seed=1).maj_PK[0]
    wanted = np.array([every_subset(classes, silent, k) for k in ks])
    np.testing.assert_allclose(found, wanted, atol=5 * 0.5 / np.sqrt(20_000))
    assert found[0] == pytest.approx(wanted[0], abs=1e-12)
    assert found[-1] == pytest.approx(wanted[-1], abs=1e-12)


def test_a_prompt_that_is_never_or_always_right_is_exact():
    found = majority([np.array([0, 4]), np.array([6])], [4, 6], (1, 2, 4))
    np.testing.assert_array_equal(found.maj_PK, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(found.variance_PK, 0)


def test_maj_at_k_has_no_value_where_a_prompt_has_fewer_samples():
    found = majority([np.array([2, 2]), np.array([4, 4])], [4, 8], (8, 2))
    assert np.isnan(found.maj_PK[0, 0]) and np.isnan(found.variance_PK[0, 0])
    assert not np.isnan(found.maj_PK[1]).any() and not np.isnan(found.maj_PK[0, 1])


def test_the_error_of_the_draws_is_as_documented_and_independent_between_prompts():
    votes = [np.array([16, 12, 4])] * 25
    found = np.array([majority(votes, [32] * 25, (8,), seed=s).maj_PK[:, 0] for s in range(200)])
    single, of_mean = found[:, 0].std(), found.mean(axis=1).std()
    assert 0.015 < single < 0.5 / np.sqrt(DRAWS)
    assert of_mean == pytest.approx(single / 5, rel=0.2)
    reference = majority(votes[:1], [32], (8,), draws=100_000).maj_PK[0, 0]
    assert found.mean() == pytest.approx(reference, abs=0.006)


def test_the_same_seed_gives_the_same_votes():
    votes = [np.array([16, 12, 4])]
    first, second, third = (majority(votes, [32], (8,), seed=s).maj_PK[0, 0] for s in (3, 3, 4))
    assert first == second != third


@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_interval_over_samples_covers_the_true_value_when_prompts_stay(k):
    rng = np.random.default_rng(0)
    shares = [rng.dirichlet([1.5, 1, 0.5, 0.3]) for _ in range(40)]
    votes = np.stack([rng.multinomial(k, share, 20_000) for share in shares])
    right = (votes[..., 0] == votes.max(-1)) / (votes == votes.max(-1)[..., None]).sum(-1)
    truth, hits, trials = right.mean(), 0, 100
    for trial in range(trials):
        drawn = [rng.multinomial(32, share) for share in shares]
        found = majority(drawn, [32] * 40, (k,), seed=trial)
        _, interval = mean_majority(found, ["a"] * 40)
        hits += interval.low_K[0] <= truth <= interval.high_K[0]
    assert hits / trials >= 0.93


def test_the_interval_of_k_1_is_that_of_a_share():
    found = majority([np.array([8, 24])], [32], (1,))
    assert found.variance_PK[0, 0] == pytest.approx(0.25 * 0.75 / 32)
    mean_K, interval = mean_majority(found, ["a"])
    half = 1.959964 * np.sqrt(0.25 * 0.75 / 32)
    np.testing.assert_allclose([mean_K, *interval], [[0.25], [0.25 - half], [0.25 + half]])


def test_the_mean_is_uniform_over_benchmarks_and_nan_where_a_prompt_has_no_value():
    found = Majority(np.array([[1.0, 1], [0, 0], [0, np.nan]]), np.zeros((3, 2)))
    mean_K, interval = mean_majority(found, ["a", "b", "b"])
    assert mean_K[0] == 0.5
    assert np.isnan([mean_K[1], interval.low_K[1], interval.high_K[1]]).all()


def test_refuses_more_votes_than_samples():
    with pytest.raises(ValueError, match="5 samples of 4"):
        majority([np.array([2, 3])], [4], (1, 2))


def test_a_figure_does_not_depend_on_which_other_k_are_asked() -> None:
    votes, sizes = [np.array([3, 4, 2]), np.array([1, 6, 1, 1])], [12, 12]
    every = majority(votes, sizes, (1, 2, 4, 8, 12))
    for column, k in enumerate((1, 2, 4, 8, 12)):
        alone = majority(votes, sizes, (k,))
        assert alone.maj_PK[:, 0] == pytest.approx(every.maj_PK[:, column])
        assert alone.variance_PK[:, 0] == pytest.approx(every.variance_PK[:, column])
