from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsgrpo.cli import app
from rsgrpo.errors import UserError
from rsgrpo.tracking import history, reader
from rsgrpo.tracking.points_cache import points_folder
from rsgrpo.tracking.reader import list_runs, read_runs
from rsgrpo.tracking.sender import sync
from rsgrpo.tracking.spool import Spool

pytest.importorskip("mlflow")
CHECKOUT = Path(__file__).parents[2]
Rows = dict[tuple[str, str, int], tuple[float, int]]


def value_of(run: int, step: int) -> float:
    return {3: math.nan, 4: math.inf, 5: -math.inf}.get(step, run + step / 8)


def write_runs(
    root: Path, count: int, steps: int, metrics: Sequence[str] = ("reward", "entropy")
) -> Rows:
    """Record a study of `count` ended runs; return each number by (name, metric, step)."""
    written: Rows = {}
    with Spool(root / "spool.jsonl", "demo") as spool:
        spool.start("demo", "demo", tags={"stage": "study"})
    for run in range(count):
        name = f"run-{run}"
        with Spool(root / "train" / name / "spool.jsonl", f"{name}-key") as spool:
            spool.start(name, "demo", "demo", {"stage": "train"}, {"training.seed": run})
            for step in range(1, steps + 1):
                values = {metric: value_of(run, step) for metric in metrics}
                spool.metrics(step, values, time_ms=10_000 * run + step)
                for metric in metrics:
                    written[name, metric, step] = (value_of(run, step), 10_000 * run + step)
            spool.end("FAILED" if run == 1 else "FINISHED")
    return written


def read_all(uri: str) -> Rows:
    runs = list_runs(uri)
    names = {run.run_id: run.name for run in runs}
    rows = read_runs(uri, runs).to_pylist()
    found = {
        (names[row["run_id"]], row["metric"], row["step"]): (row["value"], row["time"])
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def same(left: Rows, right: Rows) -> bool:
    # NaN differs from itself
    return {key: str(row) for key, row in left.items()} == {
        key: str(row) for key, row in right.items()
    }


def uri_of(root: Path) -> str:
    return f"sqlite:///{root / 'mlflow.db'}"


class Download:
    """Stands for a store elsewhere: hands out copies of a root's artifacts and counts them."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "mlartifacts"
        self.asked: Counter[str] = Counter()

    def _download_file(self, name: str, to: str) -> None:
        self.asked[name.partition("/")[0]] += 1
        shutil.copy(self.folder / name, to)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSGRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def download(root: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    far = Download(root)
    monkeypatch.setattr(reader, "_source", lambda uri, above: far)
    return far


def test_runs_are_listed_and_read_as_they_were_written(root: Path) -> None:
    written = write_runs(root, 3, 6)
    sync(root)
    found = {run.name: run for run in list_runs(uri_of(root))}
    assert found.keys() == {"demo", "run-0", "run-1", "run-2"}
    assert (found["run-1"].status, found["run-2"].status) == ("FAILED", "FINISHED")
    assert (found["demo"].status, found["demo"].ended) == ("RUNNING", None)
    assert found["run-2"].run == "run-2-key" and found["run-2"].study == "demo"
    assert found["run-2"].parent == found["demo"].run_id
    assert found["run-2"].params == {"training.seed": "2"}
    assert found["run-2"].tags["stage"] == "train"
    assert found["run-2"].metrics["reward"] == 2.75
    assert same(read_all(uri_of(root)), written)
    assert not points_folder().exists(), "what lies in a folder of this machine is not copied"


def test_all_runs_come_by_one_search_and_pages_are_put_together(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    pages: list[int] = []
    real = MlflowClient.search_runs

    def search_runs(self: MlflowClient, *values: Any, **named: Any) -> Any:
        page = real(self, *values, **named)
        pages.append(len(page))
        return page

    write_runs(root, 4, 1)
    sync(root)
    monkeypatch.setattr(MlflowClient, "search_runs", search_runs)
    assert len(list_runs(uri_of(root))) == 5
    assert pages == [5]
    monkeypatch.setattr(reader, "RUNS_PER_PAGE", 2)
    assert len({run.run_id for run in list_runs(uri_of(root))}) == 5
    assert pages == [5, 2, 2, 1]


def test_a_study_and_a_folder_can_be_asked_for_alone(root: Path) -> None:
    write_runs(root, 1, 1)
    with Spool(root / "other" / "spool.jsonl", "other") as spool:
        spool.start("other", "another-study")
    sync(root)
    assert [run.name for run in list_runs(uri_of(root), "another-study")] == ["other"]
    assert list_runs(uri_of(root), "third") == []
    own = (root / ".root-id").read_text()
    assert len(list_runs(uri_of(root), root_id=own)) == 3
    assert list_runs(uri_of(root), root_id="f" * 16) == []


def test_a_run_at_work_is_read_from_its_history(root: Path, download: Download) -> None:
    written = write_runs(root, 2, 6)
    for number in (7, 8):
        with Spool(root / f"{number}" / "spool.jsonl", f"{number}") as spool:
            spool.start(f"run-{number}", "demo")
            for step in range(1, 7):
                spool.metrics(step, {"reward": value_of(number, step)}, time_ms=step)
                written[f"run-{number}", "reward", step] = (value_of(number, step), step)
    sync(root)
    assert same(read_all(uri_of(root)), written)
    assert sum(download.asked.values()) == 2


def test_histories_beyond_one_answer_are_asked_for_in_parts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "ENDED", ())
    monkeypatch.setattr(history, "POINTS_PER_REQUEST", 13)
    monkeypatch.setattr(history, "RUNS_PER_REQUEST", 3)
    written = write_runs(root, 5, 6)
    sync(root)
    assert same(read_all(uri_of(root)), written)


def test_numbers_of_ended_runs_are_fetched_once(root: Path, download: Download) -> None:
    written = write_runs(root, 3, 6)
    sync(root)
    for _ in range(2):
        assert same(read_all(uri_of(root)), written)
    assert sorted(download.asked.values()) == [1, 1, 1]
    assert len(list(points_folder().iterdir())) == 3


@pytest.mark.parametrize("damage", ["torn", "empty", "other"])
def test_a_damaged_file_of_the_cache_is_fetched_again(
    damage: str, root: Path, download: Download
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    written = write_runs(root, 2, 6)
    sync(root)
    read_all(uri_of(root))
    for file in points_folder().iterdir():
        if damage == "other":
            parquet.write_table(pa.table({"x": [1]}), file)
        else:
            file.write_bytes(file.read_bytes()[:-9] if damage == "torn" else b"")
    assert same(read_all(uri_of(root)), written)
    assert sorted(download.asked.values()) == [2, 2]


def test_a_run_that_goes_on_and_ends_again_is_read_anew(root: Path, download: Download) -> None:
    written = write_runs(root, 1, 2)
    sync(root)
    read_all(uri_of(root))
    spool_path = root / "train" / "run-0" / "spool.jsonl"
    with Spool(spool_path, "run-0-key") as spool:
        spool.start("run-0", "demo", "demo")
        spool.metrics(9, {"reward": 1.5}, time_ms=9)
        sync(root)
        written["run-0", "reward", 9] = (1.5, 9)
        assert same(read_all(uri_of(root)), written), "at work: its file is of its earlier end"
        spool.metrics(10, {"reward": 2.5}, time_ms=10)
        spool.end()
    sync(root)
    written["run-0", "reward", 10] = (2.5, 10)
    assert same(read_all(uri_of(root)), written)
    assert list(download.asked.values()) == [2]
    assert len(list(points_folder().iterdir())) == 1


def test_an_ended_run_without_its_file_is_read_from_its_history(
    root: Path, download: Download
) -> None:
    written = write_runs(root, 2, 6)
    sync(root)
    for file in (root / "mlartifacts").rglob("metrics.parquet"):
        file.unlink()
    assert same(read_all(uri_of(root)), written)
    assert not [file for file in points_folder().iterdir() if file.suffix != ".parquet"]


def test_readers_at_the_same_time_see_whole_files(root: Path, download: Download) -> None:
    written = write_runs(root, 4, 6)
    sync(root)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(read_all, [uri_of(root)] * 12):
            assert same(found, written)
    names = [file.name for file in points_folder().iterdir()]
    assert len(names) == 4 and not [name for name in names if name.startswith(".")]


def test_a_name_that_mlflow_changes_is_the_same_from_file_and_history(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(root, 1, 2, metrics=("pass@8", "reward"))
    sync(root)
    from_file = read_all(uri_of(root))
    monkeypatch.setattr(reader, "ENDED", ())
    assert same(read_all(uri_of(root)), from_file)
    assert {metric for _, metric, _ in from_file} == {"pass_8", "reward"}


def test_no_runs_are_an_empty_table(root: Path) -> None:
    table = read_runs(uri_of(root), [])
    assert table.num_rows == 0
    assert table.column_names == ["run_id", "step", "metric", "value", "time"]


def test_the_verb_prints_runs_and_writes_their_numbers(root: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    write_runs(root, 2, 6)
    sync(root)
    file = tmp_path / "points.parquet"
    done = CliRunner().invoke(app, ["runs", str(root), "--json", "--points", str(file)])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["run"] for row in rows} == {"demo", "run-0", "run-1"}
    (row,) = [row for row in rows if row["run"] == "run-0"]
    assert (row["study"], row["stage"], row["status"]) == ("demo", "train", "FINISHED")
    assert row["metrics"]["reward"] == 0.75 and row["params"] == {"training.seed": "0"}
    assert parquet.read_table(file).num_rows == 24
    assert "24 numbers of 3 runs" in done.stderr
    table = CliRunner().invoke(app, ["runs", str(root), "--study", "demo"]).stdout
    assert "run-1" in table and "FAILED" in table and "params" not in table
    text = CliRunner().invoke(app, ["runs", str(root), "--csv"]).stdout
    assert text.splitlines()[0] == "run,study,stage,status,began,minutes,run_id"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone"], "gone is not a folder"),
        (["--points", "no/all.parquet"], "the folder of --points no/all.parquet does not exist"),
        (["."], "nothing of . was shipped to MLflow yet"),
        (["--tracking-uri", "sqlite:///gone.db"], "no MLflow database gone.db"),
        (["--tracking-uri", "sqlite:///EMPTY", "--study", "a'b"], "quotes"),
        (["--tracking-uri", "sqlite:///EMPTY"], "no experiment rsgrpo"),
    ],
)
def test_the_verb_says_in_a_sentence_what_it_cannot_read(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "mlflow.db").write_bytes(empty_database.read_bytes())
    if arguments == ["."]:
        sync_nothing = tmp_path / "here"
        assert not (sync_nothing / ".root-id").exists()
    words = [word.replace("EMPTY", "mlflow.db") for word in arguments]
    done = CliRunner().invoke(app, ["runs", *words])
    assert isinstance(done.exception, UserError)
    assert sentence in str(done.exception) and "\n" not in str(done.exception)
    assert not (tmp_path / "here" / "gone.db").exists()


def test_a_server_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="does not answer"):
        list_runs("http://127.0.0.1:9")


@pytest.mark.slow
def test_a_real_server_hands_out_what_the_sender_shipped(
    tmp_path: Path, empty_database: Path
) -> None:
    from tests.tracking.test_tracking_server import _free_port, mlflow_server

    (tmp_path / "server.db").write_bytes(empty_database.read_bytes())
    root = tmp_path / "study"
    written = write_runs(root, 30, 50)
    with Spool(root / "working" / "spool.jsonl", "working") as spool:
        spool.start("run-90", "demo")
        for step in range(1, 7):
            spool.metrics(step, {"reward": value_of(90, step)}, time_ms=step)
            written["run-90", "reward", step] = (value_of(90, step), step)
    with Spool(root / "working2" / "spool.jsonl", "working2") as spool:
        spool.start("run-91", "demo")
        spool.metrics(3, {"reward": math.nan}, time_ms=3)
        written["run-91", "reward", 3] = (math.nan, 3)
    with mlflow_server(tmp_path, _free_port()) as uri:
        assert sync(root, uri).metrics == len(written)
        assert same(read_all(uri), written)
        assert len(list(points_folder().iterdir())) == 30
        command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", "runs"]
        command += [str(root), "--tracking-uri", uri, "--csv", "--points", str(tmp_path / "p")]
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=True, env=os.environ
        )
        assert done.stdout.count("\n") == 34
        for file in points_folder().iterdir():
            file.write_bytes(b"damaged")
        assert same(read_all(uri), written)
