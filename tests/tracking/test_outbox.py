from __future__ import annotations

import math
from pathlib import Path

import pytest

from rsgrpo.tracking.outbox import Outbox, Point, all_points, find_spools, write_points
from rsgrpo.tracking.spool import Spool


def test_only_the_first_record_of_a_step_counts_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    with Spool(path, "r") as spool:
        for step in (1, 2, 3):
            spool.metrics(step, {"reward": step}, time_ms=step)
        spool.table("t", 3, "first")
    with Spool(path, "r") as spool:
        spool.metrics(2, {"reward": 99, "late": 5}, time_ms=20)
        spool.metrics(4, {"reward": 4}, time_ms=40)
        spool.table("t", 3, "second")
    ((parcel,),) = Outbox(tmp_path).collect({}).values()
    assert parcel.points == [
        Point(1, "reward", 1.0, 1),
        Point(2, "reward", 2.0, 2),
        Point(3, "reward", 3.0, 3),
        Point(2, "late", 5.0, 20),
        Point(4, "reward", 4.0, 40),
    ]
    assert [table["data"] for table in parcel.tables] == ["first"]
    assert list(all_points(path, "r")) == parcel.points


def test_what_was_shipped_is_remembered_but_not_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "a" / "spool.jsonl"
    with Spool(path, "r") as spool:
        spool.start("r", "study")
        spool.metrics(1, {"x": 1.0})
    shipped = {"a/spool.jsonl": path.stat().st_size}
    with Spool(path, "r") as spool:
        spool.metrics(1, {"x": 2.0})
        spool.metrics(2, {"x": 3.0})
    outbox = Outbox(tmp_path)
    ((parcel,),) = outbox.collect(shipped).values()
    assert [(p.step, p.value) for p in parcel.points] == [(2, 3.0)]
    assert parcel.start is None and outbox.starts["r"]["study"] == "study"
    assert outbox.position("a/spool.jsonl") == path.stat().st_size
    assert outbox.collect(shipped) == {}


def test_a_line_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    with Spool(path, "r") as spool:
        spool.metrics(1, {"x": 1.0})
    line = path.read_bytes()
    path.write_bytes(line[:-10])
    outbox = Outbox(tmp_path)
    assert outbox.collect({}) == {}
    path.write_bytes(line)
    ((parcel,),) = outbox.collect({}).values()
    assert [p.step for p in parcel.points] == [1]


def test_a_spool_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    with Spool(path, "r") as spool:
        spool.metrics(1, {"x": 1.0})
    ((parcel,),) = Outbox(tmp_path).collect({"spool.jsonl": 10_000}).values()
    assert [p.step for p in parcel.points] == [1] and parcel.first


def test_copies_among_stored_artifacts_are_no_spools(tmp_path: Path) -> None:
    for folder in ("b", "a/deep", "mlartifacts/x", ".cache"):
        with Spool(tmp_path / folder / "spool.jsonl", "r") as spool:
            spool.metrics(1, {"x": 1.0})
    assert find_spools(tmp_path) == [tmp_path / f / "spool.jsonl" for f in ("a/deep", "b")]


def test_points_become_a_parquet_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    points = [Point(1, "x", 0.5, 10), Point(2, "x", math.nan, 20)]
    write_points(iter(points), tmp_path / "metrics.parquet")
    table = parquet.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == ["step", "metric", "value", "time"]
    first, second = table.to_pylist()
    assert first == {"step": 1, "metric": "x", "value": 0.5, "time": 10}
    assert math.isnan(second["value"])
