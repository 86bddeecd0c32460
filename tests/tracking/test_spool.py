from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.tracking.spool import Spool, read_spool

WATCHER = Path(__file__).with_name("watch_opens.py")
numbers = st.floats(allow_nan=True, allow_infinity=True)
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


def three_steps(path: Path) -> list[dict[str, object]]:
    with Spool(path, "r") as spool:
        for step in range(3):
            spool.metrics(step, {"reward": step / 2}, time_ms=step)
    return list(read_spool(path))


def test_every_kind_of_record_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spool.jsonl"
    with Spool(path, "r1") as spool:
        spool.start("beta 4", "demo", "study", {"method": "rs_grpo"}, {"training.risk_beta": 4})
        spool.metrics(7, {"reward": 0.5}, time_ms=1700)
        spool.table("histogram", 7, {"counts": (1, 2), "edge": math.inf})
        spool.artifact(tmp_path / "score.parquet", "scores")
        spool.dataset("countdown/train", "abc", 1200, "enumerated")
        spool.draws(7, 1, 4, ["p1", "p2"], [0, 3])
        spool.tags({"diagnosis.entropy_collapse": "no"})
        spool.end("FAILED")
    start, metrics, table, artifact, dataset, draws, tags, end = read_spool(path)
    assert min(record.pop("time") for record in (start, table, tags, end)) > 1_600_000_000_000
    assert draws == {
        "kind": "draws", "run": "r1", "step": 7, "round": 1, "n": 4, "prompts": ["p1", "p2"],
        "correct": [0, 3],
    }  # fmt: skip
    assert tags == {"kind": "tags", "run": "r1", "tags": {"diagnosis.entropy_collapse": "no"}}
    assert start == {
        "kind": "start", "run": "r1", "name": "beta 4", "study": "demo", "parent": "study",
        "tags": {"method": "rs_grpo"}, "params": {"training.risk_beta": "4"},
    }  # fmt: skip
    assert metrics == {
        "kind": "metrics", "run": "r1", "step": 7, "time": 1700, "values": {"reward": 0.5},
    }  # fmt: skip
    assert table == {
        "kind": "table", "run": "r1", "name": "histogram", "step": 7,
        "data": {"counts": [1, 2], "edge": "inf"},
    }  # fmt: skip
    assert artifact == {
        "kind": "artifact", "run": "r1", "path": "../score.parquet", "folder": "scores",
    }  # fmt: skip
    assert dataset == {
        "kind": "dataset", "run": "r1", "name": "countdown/train", "digest": "abc", "rows": 1200,
        "source": "enumerated",
    }  # fmt: skip
    assert end == {"kind": "end", "run": "r1", "status": "FAILED"}


@given(values=st.dictionaries(st.text(), numbers), step=st.integers(-5, 10**12))
def test_metrics_round_trip_and_stay_strict_json(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, float], step: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "spool.jsonl"
    with Spool(path, "r") as spool:
        spool.metrics(step, values)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = read_spool(path)
    assert record["step"] == step
    assert {k: repr(v) for k, v in record["values"].items()} == {
        k: repr(v) for k, v in values.items()
    }


@given(data=nested)
def test_tables_round_trip(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    path = tmp_path_factory.mktemp("t") / "spool.jsonl"
    with Spool(path, "r") as spool:
        spool.table("t", 1, data)
    (record,) = read_spool(path)
    assert record["data"] == data


def test_arrays_and_scalars_of_numpy_are_plain_numbers(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    with Spool(tmp_path / "spool.jsonl", "r") as spool:
        spool.metrics(np.int64(3), {"loss": np.float32(0.5)})
        spool.table("t", 3, {"grid": np.array([[1.0, np.nan]]), "n": np.int64(2)})
    metrics, table = read_spool(spool.path)
    assert (metrics["step"], metrics["values"]) == (3, {"loss": 0.5})
    assert table["data"] == {"grid": [[1.0, "nan"]], "n": 2}


@given(cut=st.integers(0, 10_000))
def test_a_spool_cut_anywhere_keeps_whole_lines_and_is_sealed_when_reopened(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "spool.jsonl"
    whole = three_steps(path)
    content = path.read_bytes()
    cut %= len(content) + 1
    path.write_bytes(content[:cut])
    kept = content[:cut].count(b"\n")
    assert list(read_spool(path)) == whole[:kept]
    with Spool(path, "r") as spool:
        spool.metrics(9, {"reward": 1.0}, time_ms=9)
    *before, last = read_spool(path)
    # Where only the line end was lost, sealing saves the line.
    assert before == whole[: kept + (content[cut : cut + 1] == b"\n")]
    assert last["step"] == 9


def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    with Spool(Path("/dev/full"), "r") as spool, pytest.raises(OSError) as caught:
        spool.metrics(1, {"reward": 0.0})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_a_line_cut_by_a_full_disk_does_not_spoil_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    rooms = iter([25, 0])

    def write_until_full(file: int, data: bytes) -> int:
        if room := next(rooms):
            return write(file, data[:room])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "spool.jsonl"
    with Spool(path, "r") as spool:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(os, "write", write_until_full)
            spool.metrics(1, {"reward": 0.0})
        assert path.stat().st_size == 25
        spool.metrics(2, {"reward": 0.0})
    assert [record["step"] for record in read_spool(path)] == [2]


def test_two_writers_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    code = (
        "import sys; from pathlib import Path; from rsgrpo.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), sys.argv[2])\n"
        "for step in range(500): spool.table('t', step, 'x' * 500)"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), run]) for run in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    records = list(read_spool(path))
    assert sorted((r["run"], r["step"]) for r in records) == [
        (run, step) for run in "ab" for step in range(500)
    ]


@pytest.mark.parametrize("run", ["", "it's", "a`b", "a\\b"])
def test_run_ids_that_a_search_could_not_find_again_are_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(ValueError, match="without quotes"):
        Spool(tmp_path / "spool.jsonl", run)


def test_a_process_that_spools_opens_neither_socket_nor_database(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom rsgrpo.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]) / 'spool.jsonl', 'r')\n"
        "spool.start('a', 'b'); spool.metrics(1, {'x': 1.0}); spool.table('t', 1, [1])\n"
        "spool.artifact(Path(sys.argv[0])); spool.dataset('d', 'e', 1, 'f'); spool.end()\n"
        "assert not {'mlflow', 'numpy', 'torch', 'pydantic'} & set(sys.modules)\n"
    )
    report = tmp_path / "report.json"
    command = [sys.executable, str(WATCHER), str(report), str(script), str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=_with_checkout())
    assert json.loads(report.read_text()) == []
    assert len(list(read_spool(tmp_path / "spool.jsonl"))) == 6


def test_the_watcher_sees_sockets_and_databases(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import socket, sqlite3\n"
        "socket.socket().close(); sqlite3.connect('mlflow.db').close(); open('mlflow.db').close()\n"
    )
    report = tmp_path / "report.json"
    command = [sys.executable, str(WATCHER), str(report), str(script)]
    subprocess.run(command, check=True, cwd=tmp_path)
    events = [event for event, _ in json.loads(report.read_text())]
    assert {"socket.__new__", "sqlite3.connect", "open"} <= set(events)


def _with_checkout() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
