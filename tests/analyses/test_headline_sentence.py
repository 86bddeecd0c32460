"""The sentence says what the numbers say, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest

from rsgrpo.analyses.headline import Change, Figure, Headline, headline, headline_table, sentence
from rsgrpo.analyses.study import Identity, PolicyScore, build_study
from rsgrpo.evaluation.prompts import PromptScore

UP = Change(0.239, 0.21, 0.268, 0.001)
DOWN = Change(-0.05, -0.08, -0.02, 0.001)
UNCLEAR = Change(0.003, -0.01, 0.016, 0.6)


def made(over, pass_at_1_over, **fields):
    defaults = {
        "label": "RS-GRPO β=4",
        "method": "rs_grpo",
        "risk_beta": 4.0,
        "k": 64,
        "n_samples": 256,
        "n_prompts": 240,
        "n_benchmarks": 6,
        "seeds": [0, 1],
        "pass_at_k": Figure(0.875, 0.85, 0.9),
        "pass_at_1": Figure(0.362, 0.34, 0.38),
    }
    return Headline(**{**defaults, **fields}, over=over, pass_at_1_over=pass_at_1_over)


def test_sentence_of_a_gain():
    found = made(
        {"grpo": UP, "base": Change(0.15, 0.12, 0.18, 0.001)},
        {"grpo": Change(-0.024, -0.031, -0.017, 0.001), "base": UP},
    )
    assert sentence(found) == (
        "RS-GRPO (beta 4) solves 87.5% of held-out problems within 64 attempts, +23.9 points "
        "[+21.0, +26.8] over GRPO and +15.0 points [+12.0, +18.0] over the base policy; its pass@1 "
        "is 36.2%, -2.4 points [-3.1, -1.7] against GRPO (240 prompts x 256 samples, uniform mean "
        "of 6 benchmarks, seeds 0, 1, 95% paired bootstrap over prompts and seeds)."
    )


def test_sentence_of_a_loss_and_of_no_clear_difference():
    text = sentence(made({"grpo": DOWN, "base": UNCLEAR}, {"grpo": UNCLEAR, "base": UP}))
    assert "-5.0 points [-8.0, -2.0] against GRPO and no clear difference from the base " in text
    assert "base policy (+0.3 points [-1.0, +1.6]); its pass@1 is 36.2%, no clear " in text


def test_sentence_without_grpo_and_with_one_seed():
    text = sentence(made({"base": UP}, {"base": DOWN}, seeds=[3], n_benchmarks=1))
    assert "over the base policy; its pass@1 is 36.2%, -5.0 points" in text
    assert text.endswith("(240 prompts x 256 samples, seed 3, 95% paired bootstrap over prompts).")


def test_sentence_of_an_evaluation_alone():
    found = made({}, {}, method="base", risk_beta=None, label="base", seeds=[0])
    assert sentence(found, "benchmark problems") == (
        "The base policy solves 87.5% [85.0, 90.0] of benchmark problems within 64 attempts (240 "
        "prompts x 256 samples, uniform mean of 6 benchmarks, 95% bootstrap over prompts)."
    )


def test_sentence_at_k_1_says_it_once():
    text = sentence(made({"grpo": UP}, {"grpo": UP}, k=1))
    assert "within 1 attempt, +23.9" in text
    assert "its pass@1" not in text


def policy(name, method, beta, seed, accuracies, n=16):
    prompts = [
        PromptScore("a", str(i), n, c, 1, 1, None, None, None, [True] * c, [n], [c], None)
        for i, c in enumerate(accuracies)
    ]
    return PolicyScore(Identity(name, method, beta, seed), [], prompts)


def study_of(*policies):
    return build_study(policies, ks=(1, 4), headline_k=4, resamples=200, seed=0)


BASE = policy("base", "base", None, 0, [1, 0, 4, 9])
GRPO = policy("grpo-seed0", "grpo", None, 0, [2, 0, 8, 16])
RS = [policy(f"rs-{b:g}", "rs_grpo", b, 0, [4, 2, 8, 16]) for b in (0.0, 2.0, 8.0)]


def test_headline_compares_the_asked_beta_with_both_baselines():
    found = headline(study_of(*RS, GRPO, BASE), 8.0)
    assert (found.label, found.k, found.seeds, found.n_samples) == ("RS-GRPO β=8", 4, [0], 16)
    assert found.pass_at_1_over["base"].difference == pytest.approx(16 / 64)
    assert found.pass_at_1_over["grpo"].difference == pytest.approx(4 / 64)


def test_headline_takes_the_nearest_beta_where_the_asked_one_is_missing():
    assert headline(study_of(*RS, BASE), 3.0).risk_beta == 2.0


def test_headline_without_risk_sensitive_runs_is_that_of_grpo():
    found = headline(study_of(BASE, GRPO), 4.0)
    assert (found.method, list(found.over)) == ("grpo", ["base"])
    assert headline_table(found)["over"]["grpo"] is None


def test_headline_of_base_alone_and_of_training_without_base():
    assert headline(study_of(BASE), 4.0).over == {}
    assert list(headline(study_of(GRPO, RS[0]), 4.0).over) == ["grpo"]


def test_headline_of_a_schedule_has_no_beta():
    scheduled = policy("rs", "rs_grpo", None, 0, [4, 2, 8, 16])
    found = headline(study_of(scheduled, BASE), 4.0)
    assert sentence(found).startswith("RS-GRPO solves ")


def test_p_values_are_part_of_the_table():
    found = headline_table(headline(study_of(*RS, GRPO, BASE), 2.0))
    assert 0 < found["over"]["base"]["p_value"] <= 1
    assert np.isfinite(found["pass_at_k"]["low"])
