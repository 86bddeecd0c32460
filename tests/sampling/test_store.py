"""Parts cover every draw once, and more samples only add parts."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.errors import UserError
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.store import (
    Part,
    Span,
    chunks_of,
    plan_parts,
    read_parts,
    spans_in,
    write_part,
)


def some_problems(count: int) -> list[Problem]:
    return [Problem(f"p{i:02d}", "1 " * (1 + i % 3) + ":", "1") for i in range(count)]


def spans(parts: list[Part]) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in parts]


def fill(parts: list[Part], out: Path) -> None:
    for part in parts:
        write_part(
            part.path(out), [Sample(p.id, i, f"{p.id} {i}", 1, False) for p, i in part.draws]
        )


def test_blocks_are_the_largest_power_of_two_that_fits_a_batch() -> None:
    def plan(batch_size: int) -> list[tuple[int, int]]:
        return spans(plan_parts({"b": some_problems(30)}, {"b": 100}, batch_size, 0))

    assert plan(2048) == [(0, 64), (64, 100)]
    assert plan(30 * 128) == [(0, 100)]
    assert plan(59) == [(i, i + 1) for i in range(100)]


def test_problems_are_sorted_by_length_and_cut_into_chunks_no_larger_than_a_batch() -> None:
    chunks = chunks_of(some_problems(7), 3)
    assert [[p.id for p in chunk] for chunk in chunks] == [
        ["p00", "p03", "p06"],
        ["p01", "p04", "p02"],
        ["p05"],
    ]
    parts = plan_parts({"b": some_problems(7)}, {"b": 2}, 3, 0)
    assert [(p.chunk, p.start, p.stop, len(p.draws)) for p in parts] == [
        (0, 0, 1, 3),
        (0, 1, 2, 3),
        (1, 0, 1, 3),
        (1, 1, 2, 3),
        (2, 0, 2, 2),
    ]
    assert [(p.id, i) for p, i in parts[-1].draws] == [("p05", 0), ("p05", 1)]


def test_each_part_has_a_seed_of_its_own(problems: dict[str, list[Problem]]) -> None:
    parts = plan_parts(problems, {"easy": 10, "hard": 10}, 8, 5)
    assert [(p.benchmark, p.start, p.stop) for p in parts] == [
        ("easy", 0, 4),
        ("easy", 4, 8),
        ("easy", 8, 10),
        ("hard", 0, 8),
        ("hard", 8, 10),
    ]
    assert len({part.seed for part in parts}) == 5
    assert parts == plan_parts(problems, {"easy": 10, "hard": 10}, 8, 5)
    assert parts[0].seed != plan_parts(problems, {"easy": 10, "hard": 10}, 8, 6)[0].seed
    (longer,) = plan_parts(problems, {"easy": 0, "hard": 16}, 8, 5)[1:]
    assert (longer.start, longer.stop) == (8, 16)
    assert longer.seed != parts[-1].seed  # no random number of [8, 10) is used again


def test_more_samples_only_add_parts(tmp_path: Path) -> None:
    rows = {"b": some_problems(30)}
    fill(plan_parts(rows, {"b": 100}, 2048, 0, tmp_path), tmp_path)
    more = plan_parts(rows, {"b": 256}, 2048, 0, tmp_path)
    assert spans(more) == [(100, 128), (128, 192), (192, 256)]
    fill(more, tmp_path)
    assert plan_parts(rows, {"b": 256}, 2048, 0, tmp_path) == []
    drawn = Counter((s.problem_id, s.sample_index) for _, s in read_parts(tmp_path))
    assert drawn == {(p.id, i): 1 for p in rows["b"] for i in range(256)}


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_whatever_is_asked_in_turn_and_lost_every_draw_is_there_once(
    asked: list[int], count: int, batch_size: int, chance: random.Random
) -> None:
    rows = {"b": some_problems(count)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for n in asked:
            parts = plan_parts(rows, {"b": n}, batch_size, 0, out)
            chance.shuffle(parts)
            for part in parts[: chance.randint(0, len(parts))]:  # killed at any moment
                part.path(out).parent.mkdir(exist_ok=True)
                part.path(out).touch()
        for part in plan_parts(rows, {"b": max(asked)}, batch_size, 0, out):
            assert len(part.draws) <= batch_size
            part.path(out).parent.mkdir(exist_ok=True)
            part.path(out).touch()
        covered = Counter(
            (chunk, index) for chunk, *ends in spans_in(out / "b") for index in range(*ends)
        )
    chunks = range(len(chunks_of(rows["b"], batch_size)))
    assert covered == {(chunk, i): 1 for chunk in chunks for i in range(max(asked))}


def test_fewer_samples_than_lie_there_are_read_where_fewer_are_asked(tmp_path: Path) -> None:
    fill(plan_parts({"b": some_problems(2)}, {"b": 10}, 8, 0), tmp_path)
    assert len(list(read_parts(tmp_path))) == 20
    (tmp_path / "settings.json").write_text(json.dumps({"n": {"b": 6}}))
    indices = [sample.sample_index for _, sample in read_parts(tmp_path)]
    assert sorted(indices) == sorted([*range(6), *range(6)])


def test_parts_have_the_named_columns_and_unknown_figures_are_null(tmp_path: Path) -> None:
    rows = [Sample("a", 0, "1 + 2", 3, False, -1.25, 0.5), Sample("b", 0, "", 1, True)]
    write_part(tmp_path / "b" / Span(0, 0, 1).file_name, rows)
    table = pq.read_table(tmp_path / "b" / "part-0000-00000-00001.parquet")
    assert table.column_names == [
        "problem_id",
        "sample_index",
        "completion",
        "n_tokens",
        "truncated",
        "logprob",
        "mean_entropy",
    ]
    assert table.column("logprob").to_pylist() == [-1.25, None]
    assert [sample for _, sample in read_parts(tmp_path)] == rows


def test_two_files_with_the_same_draws_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for span in (Span(0, 0, 64), Span(1, 32, 64), Span(0, 32, 100)):
        (tmp_path / "b" / span.file_name).touch()
    sentence = "holds sample 32 twice, in part-0000-00000-00064.parquet and part-0000-00032-00100"
    with pytest.raises(UserError, match=sentence):
        plan_parts({"b": some_problems(1)}, {"b": 128}, 64, 0, tmp_path)


@pytest.mark.parametrize("name", ["part-00000.parquet", "part-0000-00064-00064.parquet"])
def test_a_file_that_is_no_part_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).touch()
    with pytest.raises(UserError, match=f"{name} is no part of samples"):
        list(read_parts(tmp_path))


def test_a_torn_part_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / Span(0, 0, 8).file_name).write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"part-0000-00000-00008\.parquet is no part of samples"):
        list(read_parts(tmp_path))
