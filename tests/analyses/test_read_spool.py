"""Reading the spool of a run that may have been killed and resumed."""

from __future__ import annotations

import json

from rsgrpo.analyses.dynamics import read_spool


def metrics(step: int, **values: float) -> str:
    return json.dumps({"kind": "metrics", "run": "r", "step": step, "time": 1, "values": values})


def table(step: int, **data: object) -> str:
    return json.dumps({"kind": "table", "name": "advantage_shape", "step": step, "data": data})


def test_one_series_for_each_metric():
    found = read_spool([metrics(1, reward=0.5, entropy=2.0), metrics(2, reward=0.25)])
    assert found.metrics == {"reward": {1: 0.5, 2: 0.25}, "entropy": {1: 2.0}}


def test_the_first_record_of_a_step_counts_after_a_resume():
    lines = [metrics(1, reward=0.1), metrics(2, reward=0.2), metrics(2, reward=9), table(2, a=1)]
    found = read_spool([*lines, table(2, a=9), metrics(2, entropy=3.0)])
    assert found.metrics == {"reward": {1: 0.1, 2: 0.2}, "entropy": {2: 3.0}}
    assert found.tables == {"advantage_shape": {2: {"a": 1}}}


def test_a_torn_line_and_other_kinds_are_passed_over():
    lines = [metrics(1, reward=0.1)[:20], '{"kind": "params", "values": {}}', "", metrics(1, x=2)]
    assert read_spool(lines).metrics == {"x": {1: 2}}
