"""Tables for a terminal: what cannot be told is a dash, and no line is wider than asked."""

from __future__ import annotations

import math

import pytest

from rsgrpo.tabular import table
from rsgrpo.terminal import print_rows


def test_nan_is_shown_as_nothing() -> None:
    assert table([{"value": math.nan, "low": None}]).split() == ["value", "low", "-", "-"]


def test_a_wide_table_comes_in_parts_that_say_what_each_row_is_about() -> None:
    rows = [{"before": "a", "solved_a": 1, "benchmark": name, "solved_b": 2} for name in "xy"]
    assert table(rows, 40) == table(rows)
    assert table(rows, 28).splitlines() == [
        "before  benchmark  solved_a",
        "     a          x         1",
        "     a          y         1",
        "",
        "before  benchmark  solved_b",
        "     a          x         2",
        "     a          y         2",
    ]
    assert table(rows, 1).count("before") == 2


def test_what_all_rows_share_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"policy": "base", "beta": None, "k": k} for k in (1, 2)]
    print_rows(rows, False, once=("policy", "beta"))
    assert capsys.readouterr().out.split() == ["policy", "base", "k", "1", "2"]
