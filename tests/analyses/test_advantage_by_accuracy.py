"""The advantages of two estimators on the same groups."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rsgrpo.analyses.advantage_shape import advantage_shape, shape_table

REWARDS = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
STANDARD = [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5], [1.5, -0.5, -0.5, -0.5], [0] * 4]
RISK = [[2.0, -0.75, -0.75, -0.5], [0.1, 0.1, 0.1, -0.3], [2.0, -0.75, -0.75, -0.5], [0] * 4]


def test_sums_the_signal_by_group_accuracy():
    shape = advantage_shape(REWARDS, STANDARD, RISK)
    assert shape.correct == [0, 1, 2, 3, 4]
    assert shape.groups == [1, 2, 0, 1, 0]
    assert shape.standard_total == pytest.approx([0, 6, 0, 3, 0])
    assert shape.risk_sensitive_total == pytest.approx([0, 8, 0, 0.6, 0])


def test_histograms_count_every_sample_on_the_same_edges():
    shape = advantage_shape(REWARDS, STANDARD, RISK, bins=4)
    assert shape.standard_histogram.edges == shape.risk_histogram.edges == [-2, -1, 0, 1, 2]
    assert shape.standard_histogram.counts_by_accuracy == [
        [0, 0, 4, 0],
        [0, 6, 0, 2],
        [0, 0, 0, 0],
        [1, 0, 3, 0],
        [0, 0, 0, 0],
    ]
    assert np.sum(shape.risk_histogram.counts_by_accuracy) == 16


def test_groups_without_signal_and_unscored_samples_are_no_fault():
    shape = advantage_shape([[np.nan, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]])
    assert shape.groups == [1, 0, 0]
    assert shape.standard_histogram.edges[0] == -1


def test_table_is_plain_json():
    table = shape_table(advantage_shape(REWARDS, STANDARD, RISK))
    assert json.loads(json.dumps(table)) == table
    assert set(table["risk_histogram"]) == {"edges", "counts_by_accuracy"}


def test_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"expected one \(P, N\)"):
        advantage_shape(REWARDS, STANDARD[:2], RISK)
