"""pass@k against exact fractions, and its two intervals against simulation."""

from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.evaluation.passk import (
    mean_pass_at_k,
    pass_at_k,
    passk_table,
    prompt_interval,
    sampling_interval,
)


def exact(c: int, n: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


@pytest.mark.parametrize("n", [1, 2, 7, 32, 256, 1024, 2048])
def test_agrees_with_exact_fractions(n):
    ks = sorted({k for k in (1, 2, 3, 4, 8, 64, 256, 512, 1024, n // 3, n - 1, n) if 1 <= k <= n})
    cs = sorted({c for c in (0, 1, 2, 3, n // 7, n // 2, n - 1, n) if 0 <= c <= n})
    found = pass_at_k(cs, [n] * len(cs), ks)
    wanted = np.array([[float(exact(c, n, k)) for k in ks] for c in cs])
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [3, 64, 1024, 2048])
def test_agrees_with_exact_fractions_to_1e_12_for_every_c_up_to_n_2048(n):
    ks = [k for k in (1, 2, 7, 32, 64, 500, 1024, 2047, 2048) if k <= n]
    found = pass_at_k(range(n + 1), [n] * (n + 1), ks)
    for column, k in enumerate(ks):
        every, without = comb(n, k), comb(n, k)
        wanted = []
        for c in range(n + 1):
            wanted.append((every - without) / every)  # exact integers, rounded once
            without = without * max(n - c - k, 0) // max(n - c, 1)  # C(n - c - 1, k)
        np.testing.assert_allclose(found[:, column], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_agrees_with_the_enumeration_of_all_subsets(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([1] * c + [0] * (n - c), k))
            share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
            assert pass_at_k([c], [n], (k,))[0, 0] == pytest.approx(float(share), abs=1e-15)


def test_one_of_four_correct_is_certain_at_k_4():
    np.testing.assert_allclose(pass_at_k([1], [4], (1, 2, 3, 4)), [[0.25, 0.5, 0.75, 1.0]])
    assert pass_at_k([1], [4], (4,))[0, 0] == 1.0


def test_nan_where_a_prompt_has_fewer_than_k_samples():
    found = pass_at_k([4, 0, 8], [4, 4, 8], (4, 8))
    assert np.isnan(found[:2, 1]).all()
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1])
    assert found[2, 1] == 1


def test_a_k_beyond_every_int_of_numpy_has_no_value_either():
    ks = (1, 10**400)
    assert np.isnan(pass_at_k([1, 2], [4, 4], ks)).tolist() == [[False, True]] * 2
    low_K, high_K = sampling_interval([1, 2], [4, 4], ks)
    assert np.isnan([low_K, high_K]).tolist() == [[False, True]] * 2


def test_a_prompt_without_samples_has_no_value():
    assert np.isnan(pass_at_k([0], [0], (1,))).all()


def test_the_mean_over_prompts_has_no_value_where_one_prompt_has_none():
    mean_K = mean_pass_at_k(pass_at_k([4, 2], [4, 8], (1, 8)))
    assert mean_K[0] == pytest.approx(0.625)
    assert np.isnan(mean_K[1])


def test_the_mean_of_benchmarks_is_uniform_over_benchmarks_not_prompts():
    passk_PK = np.array([[1.0], [0.0], [0.0], [0.0]])
    assert mean_pass_at_k(passk_PK, ["a", "b", "b", "b"])[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("correct", "n", "ks", "message"),
    [
        ([0.5], [4], (1,), "correct holds float64"),
        ([True], [4], (1,), "correct holds bool"),
        ([1], [4.0], (1,), "n holds float64"),
        ([5], [4], (1,), "prompt 0 has 5 correct of 4"),
        ([1, -1], [4, 4], (1,), "prompt 1 has -1 correct"),
        ([1, 1], [4], (1,), r"shape \(2,\) and n \(1,\)"),
        ([[1]], [[4]], (1,), "one count for each prompt"),
        ([1], [4], (0,), "k is 0"),
        ([1], [4], (1.5,), "k is 1.5"),
        ([1], [4], (True,), "k is True"),
    ],
)
def test_refuses_what_is_no_count(correct, n, ks, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(correct, n, ks)


@given(n=st.integers(1, 300), data=st.data())
def test_rises_with_c_and_with_k(n, data):
    ks = sorted(data.draw(st.sets(st.integers(1, n), min_size=1, max_size=6)))
    table_CK = passk_table(n, ks)
    assert (np.diff(table_CK, axis=0) >= -1e-15).all()
    assert (np.diff(table_CK, axis=1) >= -1e-15).all()
    assert ((table_CK >= 0) & (table_CK <= 1)).all()
    np.testing.assert_array_equal(table_CK[0], 0)


@given(n=st.integers(1, 200), data=st.data())
def test_pass_at_1_is_the_accuracy(n, data):
    c = data.draw(st.integers(0, n))
    assert pass_at_k([c], [n], (1,))[0, 0] == pytest.approx(c / n, abs=1e-14)


def test_intervals_are_the_same_for_the_same_seed_and_differ_for_another():
    c_P, n_P = list(range(33)), [32] * 33
    passk_PK = pass_at_k(c_P, n_P, (3,))
    for low in (
        lambda seed: prompt_interval(passk_PK, seed=seed).low_K[0],
        lambda seed: sampling_interval(c_P, n_P, (3,), seed=seed).low_K[0],
    ):
        assert low(3) == low(3) != low(4)


def test_prompt_interval_of_identical_prompts_has_no_width():
    found = prompt_interval(pass_at_k([2] * 9, [8] * 9, (1, 4)))
    np.testing.assert_allclose(found.low_K, found.high_K)


def test_prompt_interval_draws_prompts_within_their_benchmark():
    passk_PK = np.array([[1.0]] * 5 + [[0.0]] * 5)
    stratified = prompt_interval(passk_PK, ["a"] * 5 + ["b"] * 5)
    np.testing.assert_allclose([stratified.low_K[0], stratified.high_K[0]], 0.5)
    pooled = prompt_interval(passk_PK)
    assert pooled.low_K[0] < 0.3 < 0.7 < pooled.high_K[0]


def test_sampling_interval_of_all_or_nothing_prompts_has_no_width():
    found = sampling_interval([0, 8], [8, 8], (1, 2))
    np.testing.assert_allclose([found.low_K, found.high_K], 0.5, atol=1e-12)


def test_intervals_are_nan_where_the_mean_is():
    prompts = prompt_interval(pass_at_k([1, 4], [4, 8], (4, 8)))
    samples = sampling_interval([1, 4], [4, 8], (4, 8))
    for interval in (prompts, samples):
        assert not np.isnan(interval.low_K[0])
        assert np.isnan([interval.low_K[1], interval.high_K[1]]).all()


def test_sampling_interval_covers_the_true_value_when_prompts_stay():
    rng = np.random.default_rng(0)
    p_P = rng.beta(0.6, 1.2, 60)
    ks = (1, 4, 16)
    truth_K = np.array([(1 - (1 - p_P) ** k).mean() for k in ks])
    hits = np.zeros(3)
    for trial in range(200):
        c_P = rng.binomial(64, p_P)
        low_K, high_K = sampling_interval(c_P, [64] * 60, ks, resamples=300, seed=trial)
        hits += (low_K <= truth_K) & (truth_K <= high_K)
    assert (hits / 200 > 0.88).all(), hits


def test_prompt_interval_covers_the_true_value_of_new_prompts():
    rng = np.random.default_rng(1)
    ks = (1, 4, 16)
    truth_K = np.array([1 - np.prod([(1.2 + i) / (1.8 + i) for i in range(k)]) for k in ks])
    hits = np.zeros(3)
    for trial in range(300):
        c_P = rng.binomial(64, rng.beta(0.6, 1.2, 60))
        found = prompt_interval(pass_at_k(c_P, [64] * 60, ks), resamples=300, seed=trial)
        hits += (found.low_K <= truth_K) & (truth_K <= found.high_K)
    assert (hits / 300 > 0.90).all(), hits


def test_intervals_of_240_prompts_take_well_under_a_second():
    c_P = np.random.default_rng(0).integers(0, 257, 240)
    n_P, ks, names = [256] * 240, [2**i for i in range(9)], list("abcdef") * 40
    start = time.perf_counter()
    prompt_interval(pass_at_k(c_P, n_P, ks), names)
    sampling_interval(c_P, n_P, ks, names)
    assert time.perf_counter() - start < 1.0


def test_needs_numpy_only():
    allowed = {"numpy", "rsgrpo", "__mp_main__"}
    program = (
        "import sys; before = set(sys.modules); import rsgrpo.evaluation.passk;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    outside = set(shown.stdout.split()) - allowed - set(sys.stdlib_module_names)
    assert {name for name in outside if not name.startswith("_")} == set()
