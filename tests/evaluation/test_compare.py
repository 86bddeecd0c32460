"""Paired differences between methods."""

from __future__ import annotations

import numpy as np
import pytest

from rsgrpo.evaluation.compare import method_estimate, paired_difference
from rsgrpo.evaluation.passk import pass_at_k, prompt_interval
from rsgrpo.evaluation.resampling import prompt_weights, seed_weights


def test_a_method_does_not_differ_from_itself():
    passk_PK = np.random.default_rng(0).random((30, 2))
    found = paired_difference([passk_PK], [passk_PK])
    np.testing.assert_array_equal([found.difference_K, found.low_K, found.high_K], 0)
    np.testing.assert_array_equal(found.p_value_K, 1)


@pytest.mark.parametrize("prompts", [7, 30, 100])
@pytest.mark.parametrize(("seeds", "others"), [(1, 2), (2, 1), (1, 3), (2, 3)])
def test_the_rounding_of_unequal_numbers_of_seeds_is_no_evidence(prompts, seeds, others):
    solved_PK = np.ones((prompts, 3))
    found = paired_difference([solved_PK] * seeds, [solved_PK] * others)
    assert found.p_value_K.tolist() == [1, 1, 1]
    assert found.low_K.tolist() == found.high_K.tolist() == [0, 0, 0]


def test_a_constant_gain_is_known_exactly_because_prompts_are_paired():
    passk_PK = np.random.default_rng(0).random((30, 2)) * 0.5
    found = paired_difference([passk_PK + 0.25], [passk_PK], resamples=999)
    np.testing.assert_allclose([found.difference_K, found.low_K, found.high_K], 0.25)
    np.testing.assert_allclose(found.p_value_K, 2 / 1000)


def test_swapping_the_methods_turns_the_sign():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 40, 1))
    there, back = paired_difference([first], [second]), paired_difference([second], [first])
    np.testing.assert_allclose(there.low_K, -back.high_K, atol=1e-12)
    np.testing.assert_allclose(there.p_value_K, back.p_value_K)


def test_the_difference_is_uniform_over_benchmarks_and_seeds():
    first = [np.array([[1.0], [0.0], [0.0]]), np.array([[0.0], [1.0], [0.0]])]
    found = paired_difference(first, [np.zeros((3, 1))], ["a", "b", "b"])
    assert found.difference_K[0] == pytest.approx((0.5 + 0.25) / 2)


def test_one_seed_gives_the_interval_over_prompts():
    passk_PK = pass_at_k([0, 3, 9, 16, 5], [16] * 5, (1, 4))
    found = method_estimate([passk_PK], seed=5)
    over_prompts = prompt_interval(passk_PK, seed=5)
    np.testing.assert_allclose(found.low_K, over_prompts.low_K)
    np.testing.assert_allclose(found.high_K, over_prompts.high_K)


def test_seeds_that_disagree_widen_the_interval():
    passk_PK = np.full((40, 1), 0.5)
    found = method_estimate([passk_PK - 0.1, passk_PK + 0.1])
    assert found.value_K[0] == pytest.approx(0.5)
    assert found.low_K[0] < 0.42 < 0.58 < found.high_K[0]


def test_bounds_of_a_method_stay_within_0_and_1():
    found = method_estimate([np.full((9, 1), 0.95), np.full((9, 1), 1.0)])
    assert found.high_K[0] == 1.0


def test_nan_where_a_prompt_has_no_value():
    some = np.array([[0.5, np.nan], [0.25, 0.5]])
    found = paired_difference([some], [some])
    assert np.isnan([values_K[1] for values_K in found]).all()
    assert not np.isnan([values_K[0] for values_K in found]).any()


def test_weights_are_means_over_prompts_and_seeds():
    rng = np.random.default_rng(0)
    weights_RP = prompt_weights(["a"] * 3 + ["b"] * 7, 50, rng)
    np.testing.assert_allclose(weights_RP[:, :3].sum(axis=1), 0.5)
    np.testing.assert_allclose(weights_RP.sum(axis=1), 1)
    np.testing.assert_allclose(seed_weights(3, 50, rng).sum(axis=1), 1)
    np.testing.assert_array_equal(seed_weights(1, 5, rng), 1)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_the_spread_over_seeds_has_the_variance_of_their_mean(n_seeds):
    values_S = np.random.default_rng(n_seeds).random(n_seeds)
    drawn = seed_weights(n_seeds, 200_000, np.random.default_rng(0)) @ values_S
    assert drawn.var() == pytest.approx(values_S.var(ddof=1) / n_seeds, rel=0.02)


@pytest.mark.parametrize(
    ("first", "second", "names", "message"),
    [
        ([], [np.zeros((2, 1))], None, "no seed"),
        ([np.zeros((2, 1))], [np.zeros((3, 1))], None, "one shape"),
        ([np.zeros(2)], [np.zeros(2)], None, "one shape"),
        ([np.zeros((2, 1))], [np.zeros((2, 1))], ["a"], "1 benchmark names for 2 prompts"),
    ],
)
def test_refuses_what_cannot_be_paired(first, second, names, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(first, second, names)


def test_the_interval_covers_the_true_difference():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        p_P = rng.beta(0.6, 1.2, 50)
        base = rng.binomial(64, p_P)[:, None] / 64
        seeds = [
            rng.binomial(64, np.clip(p_P * 0.8 + rng.normal(0.1, 0.02), 0, 1))[:, None] / 64
            for _ in range(3)
        ]
        truth = 0.1 - 0.2 * (0.6 / 1.8)
        found = paired_difference(seeds, [base], resamples=300, seed=trial)
        hits += found.low_K[0] <= truth <= found.high_K[0]
    assert hits / 200 > 0.9


@pytest.mark.parametrize(("seeds", "least", "most"), [(2, 0.7, 0.88), (3, 0.8, 0.93)])
def test_few_seeds_are_too_sure_of_themselves_where_seeds_make_the_spread(seeds, least, most):
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        p_P = rng.beta(0.6, 1.2, 100)

        def trained(p_P=p_P):
            shifted_P = np.clip(p_P + rng.normal(0, 0.1), 0, 1)
            return rng.binomial(64, shifted_P)[:, None] / 64

        sides = [[trained() for _ in range(seeds)] for _ in range(2)]
        found = paired_difference(*sides, resamples=300, seed=trial)
        hits += found.low_K[0] <= 0 <= found.high_K[0]
    print(f"{seeds} seeds a side: {hits} of 300 intervals hold the true difference")
    assert least < hits / 300 < most


def test_equal_means_summed_in_another_order_are_no_evidence():
    passk_PK = np.random.default_rng(0).integers(0, 9, (100, 1)) / 8
    found = paired_difference([passk_PK, passk_PK], [passk_PK], resamples=500)
    np.testing.assert_array_equal([found.difference_K, found.low_K, found.high_K], 0)
    np.testing.assert_array_equal(found.p_value_K, 1)
