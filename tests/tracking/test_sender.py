from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.errors import UserError
from rsgrpo.tracking import sender
from rsgrpo.tracking.journal import record_dataset
from rsgrpo.tracking.sender import ended_file, main, sync
from rsgrpo.tracking.spool import Spool
from rsgrpo.tracking.texts import CUT_MARKER

pytest.importorskip("mlflow")
CHECKOUT = Path(__file__).parents[2]
COUNTED = ("runs", "metrics", "params", "tags", "datasets", "inputs")


def write_trial(root: Path, name: str, steps: range, parent: str | None = "study-1") -> Path:
    """Record one whole trial below `root`; return its spool."""
    folder = root / name
    with Spool(folder / "spool.jsonl", name) as spool:
        spool.start(name, "demo", parent, {"method": "rs_grpo"}, {"training.risk_beta": 4})
        spool.dataset("countdown/train", "f" * 64, 1200, "enumerated")
        for step in steps:
            spool.metrics(step, {"reward": step / 10, "nan": math.nan}, time_ms=1000 + step)
        spool.table("advantage/histogram", steps[-1], {"counts": [1, 2]})
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "scores").mkdir()
        (folder / "scores" / "test.json").write_text("[]")
        spool.artifact(folder / "config.yaml")
        spool.artifact(folder / "scores", "tables")
        spool.end("FINISHED")
    return spool.path


def write_study(root: Path) -> None:
    """Record a study with one trial and one evaluation of it; the top comes last by name."""
    write_trial(root, "a-trial", range(1, 6))
    with Spool(root / "a-trial" / "evaluation" / "spool.jsonl", "evaluation-1") as spool:
        spool.start("development", "demo", "a-trial")
        spool.metrics(5, {"pass_at_1": 0.25})
        spool.end()
    with Spool(root / "spool.jsonl", "study-1") as spool:
        spool.start("demo", "demo", None, {"commit": "abc"})


def runs(root: Path, uri: str | None = None) -> dict[str, Any]:
    """Return MLflow's runs by their rsgrpo id."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri or f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("rsgrpo")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    by_id = {run.data.tags["rsgrpo.run_id"]: run for run in found}
    assert len(by_id) == len(found)
    return by_id


def count(root: Path) -> dict[str, int]:
    """Return the number of rows of MLflow's tables and of stored artifacts."""
    with sqlite3.connect(root / "mlflow.db") as base:
        rows = {
            table: base.execute(f"select count(*) from {table}").fetchone()[0] for table in COUNTED
        }
    stored = [path for path in (root / "mlartifacts").rglob("*") if path.is_file()]
    return {**rows, "artifacts": len(stored)}


@pytest.fixture
def log_batch_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the batches that reach the database, by what they hold."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    calls: Counter[str] = Counter()
    real = SqlAlchemyStore.log_batch

    def counted(self: Any, run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
        calls["metrics"] += bool(metrics)
        calls["params"] += bool(params)
        calls["tags"] += bool(tags)
        return real(self, run_id, metrics, params, tags)

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", counted)
    return calls


def test_a_study_its_trial_and_its_evaluation_are_three_levels(root: Path) -> None:
    write_study(root)
    summary = sync(root)
    assert (summary.runs, summary.metrics, summary.tables, summary.artifacts) == (3, 11, 1, 2)
    found = runs(root)
    study, trial, evaluation = found["study-1"], found["a-trial"], found["evaluation-1"]
    assert "mlflow.parentRunId" not in study.data.tags
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert evaluation.data.tags["mlflow.parentRunId"] == trial.info.run_id
    assert [run.info.run_name for run in (study, trial, evaluation)] == [
        "demo", "a-trial", "development",
    ]  # fmt: skip
    assert [run.info.status for run in (study, trial, evaluation)] == [
        "RUNNING", "FINISHED", "FINISHED",
    ]  # fmt: skip
    assert trial.data.params == {"training.risk_beta": "4"}
    assert trial.data.tags["method"] == "rs_grpo" and trial.data.tags["rsgrpo.study"] == "demo"
    assert trial.data.metrics["reward"] == 0.5 and math.isnan(trial.data.metrics["nan"])


def test_tags_found_later_reach_the_run_and_the_last_one_counts(root: Path) -> None:
    """The study's spool tells of a run that has its own, before and after that is shipped."""
    with Spool(root / "spool.jsonl", "a-trial") as spool:
        spool.tags({"diagnosis.entropy_collapse": "unknown"})
        write_trial(root, "a-trial", range(1, 3), parent=None)
        sync(root)
        found = runs(root)["a-trial"]
        assert found.data.tags["diagnosis.entropy_collapse"] == "unknown"
        assert (found.info.run_name, found.info.status) == ("a-trial", "FINISHED")
        spool.tags({"diagnosis.entropy_collapse": "no"})
        spool.tags({"diagnosis.entropy_collapse": "yes", "diagnosis.base_overtakes": "no"})
    sync(root)
    found = runs(root)["a-trial"]
    assert found.data.tags["diagnosis.entropy_collapse"] == "yes"
    assert found.data.tags["diagnosis.base_overtakes"] == "no"
    assert found.data.tags["method"] == "rs_grpo" and found.info.status == "FINISHED"


def test_what_a_step_drew_stays_in_the_spool(root: Path) -> None:
    write_trial(root, "a-trial", range(1, 3), parent=None)
    sync(root)
    before = count(root)
    with Spool(root / "a-trial" / "spool.jsonl", "a-trial") as spool:
        for step in range(1, 50):
            spool.draws(step, 0, 16, [f"p{i}" for i in range(48)], [i % 17 for i in range(48)])
    summary = sync(root)
    assert (summary.runs, summary.metrics, summary.tables, summary.artifacts) == (0, 0, 0, 0)
    assert count(root) == before


def test_artifacts_tables_and_metrics_lie_in_the_folder_of_the_run(root: Path) -> None:
    from pyarrow import parquet

    write_study(root)
    sync(root)
    artifacts = root / "mlartifacts" / runs(root)["a-trial"].info.run_id / "artifacts"
    stored = sorted(p.relative_to(artifacts).as_posix() for p in artifacts.rglob("*.*"))
    assert stored == [
        "config.yaml",
        "metrics.parquet",
        "tables/advantage/histogram/step_00000005.json",
        "tables/scores/test.json",
    ]
    table = json.loads((artifacts / stored[2]).read_text())
    assert table == {"counts": [1, 2]}
    points = parquet.read_table(artifacts / "metrics.parquet").to_pylist()
    rewards = [(p["step"], p["value"], p["time"]) for p in points if p["metric"] == "reward"]
    assert rewards == [(step, step / 10, 1000 + step) for step in range(1, 6)]


def test_the_data_set_is_an_input_of_the_run(root: Path) -> None:
    write_study(root)
    sync(root)
    (entry,) = runs(root)["a-trial"].inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("countdown/train", "f" * 36)
    assert json.loads(entry.dataset.profile) == {"num_rows": 1200, "digest": "f" * 64}


def test_each_prepared_file_is_an_input_that_says_what_it_is_for(
    root: Path, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    names = ("train.jsonl", "corpus.jsonl", "test/countdown.jsonl", "benchmarks/aime24.jsonl")
    identity = {name: {"sha256": f"{i}" * 64, "rows": 10 + i} for i, name in enumerate(names)}
    (prepared / "dataset.json").write_text(json.dumps(identity))
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo")
        record_dataset(spool, prepared)
        spool.dataset("own", "abc", 1, "of an earlier version")
    for _ in range(2):
        sync(root)
        (root / ".sync.json").unlink()
    inputs = runs(root)["r"].inputs.dataset_inputs
    contexts = {i.dataset.name: [(t.key, t.value) for t in i.tags] for i in inputs}
    key = "mlflow.data.context"
    assert len(inputs) == 5 and contexts == {
        "train.jsonl": [(key, "training")],
        "corpus.jsonl": [(key, "pre-training")],
        "test/countdown.jsonl": [(key, "evaluation")],
        "benchmarks/aime24.jsonl": [(key, "evaluation")],
        "own": [],
    }


def test_nothing_is_stored_twice_by_a_second_sync(root: Path, log_batch_calls: Any) -> None:
    write_study(root)
    sync(root)
    stored, calls = count(root), log_batch_calls.copy()
    assert sync(root)[1:] == (0, 0, 0, 0, (), ())
    assert count(root) == stored and log_batch_calls == calls


def test_nothing_is_stored_twice_when_the_progress_is_lost(root: Path) -> None:
    write_study(root)
    sync(root)
    stored = count(root)
    (root / ".sync.json").unlink()
    assert sync(root).runs == 0
    assert count(root) == stored


def test_mlflow_itself_drops_a_point_sent_twice(root: Path) -> None:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    write_study(root)
    sync(root)
    stored = count(root)
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    again = [Metric("reward", step / 10, 1000 + step, step) for step in range(1, 6)]
    again += [Metric("nan", math.nan, 1000 + step, step) for step in range(1, 6)]
    client.log_batch(runs(root)["a-trial"].info.run_id, metrics=again)
    assert count(root) == stored


def test_a_resumed_trainer_adds_only_its_new_steps(root: Path) -> None:
    path = write_trial(root, "trial", range(1, 6), parent=None)
    sync(root)
    before = count(root)
    with Spool(path, "trial") as spool:
        changed = {"training.risk_beta": 4, "training.steps": 8}
        spool.start("trial", "demo", None, {"method": "changed"}, changed)
        for step in range(3, 9):
            spool.metrics(step, {"reward": 100.0 + step}, time_ms=9000 + step)
    assert sync(root).metrics == 3
    run = runs(root)["trial"]
    assert run.info.status == "RUNNING"
    assert run.data.params == {"training.risk_beta": "4", "training.steps": "8"}
    assert run.data.tags["method"] == "changed"
    with Spool(path, "trial") as spool:
        spool.end("FINISHED")
    assert sync(root).metrics == 0
    assert runs(root)["trial"].info.status == "FINISHED"
    assert count(root) == {**before, "metrics": before["metrics"] + 3, "params": 2}
    with sqlite3.connect(root / "mlflow.db") as base:
        rows = base.execute("select step, value from metrics where key='reward' order by step")
        assert rows.fetchall() == [
            *((step, step / 10) for step in range(1, 6)),
            *((step, 100.0 + step) for step in range(6, 9)),
        ]


def test_a_changed_parameter_keeps_its_first_value(root: Path) -> None:
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo", params={"seed": 0})
    sync(root)
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo", params={"seed": 1})
    sync(root)
    assert runs(root)["r"].data.params == {"seed": "0"}


def test_a_run_shipped_before_the_run_above_it_is_linked_later(root: Path) -> None:
    write_trial(root, "trial", range(1, 3), parent="study-1")
    sync(root)
    assert "mlflow.parentRunId" not in runs(root)["trial"].data.tags
    with Spool(root / "spool.jsonl", "study-1") as spool:
        spool.start("demo", "demo")
    sync(root)
    found = runs(root)
    assert found["trial"].data.tags["mlflow.parentRunId"] == found["study-1"].info.run_id


def test_a_thousand_steps_are_shipped_in_batches(root: Path, log_batch_calls: Any) -> None:
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo", params={f"p{i:03}": i for i in range(150)})
        for step in range(1000):
            spool.metrics(step, {f"m{i}": step * i for i in range(6)})
    assert sync(root).metrics == 6000
    assert log_batch_calls == {"metrics": 6, "params": 2, "tags": 1}
    assert len(runs(root)["r"].data.params) == 150


def test_long_parameters_are_cut_and_say_so(root: Path) -> None:
    with Spool(root / "spool.jsonl", "r") as spool:
        long = {f"long{i}": "é" * 7000 for i in range(60)}
        spool.start("r", "demo", tags={"diff": "x" * 9000}, params={**long, "empty": "", "k@1": 1})
        spool.metrics(1, {"pass@8": 0.5, "../up": 1.0})
    sync(root)
    data = runs(root)["r"].data
    assert data.params["long0"] == "é" * (6000 - len(CUT_MARKER)) + CUT_MARKER
    assert (len(data.params["long59"]), data.params["empty"], data.params["k_1"]) == (6000, "", "1")
    assert data.tags["diff"].endswith(CUT_MARKER)
    assert data.metrics == {"pass_8": 0.5, "up": 1.0}


def test_a_torn_line_is_passed_over(root: Path) -> None:
    path = write_trial(root, "trial", range(1, 4), parent=None)
    with open(path, "a") as file:
        file.write('{"kind": "metrics", "run": "tr')
    assert sync(root).metrics == 6
    with Spool(path, "trial") as spool:
        spool.metrics(4, {"reward": 0.4})
    assert sync(root).metrics == 1


def test_an_artifact_that_is_gone_is_named_and_holds_nothing_up(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_trial(root, "trial", range(1, 4), parent=None)
    (path.parent / "config.yaml").unlink()
    assert main([str(root)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{path.parent / 'config.yaml'} was recorded")
    assert runs(root)["trial"].info.status == "FINISHED"


def test_a_run_deleted_in_mlflow_stays_deleted(root: Path) -> None:
    from mlflow.tracking import MlflowClient

    path = write_trial(root, "trial", range(1, 4), parent=None)
    sync(root)
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    client.delete_run(runs(root)["trial"].info.run_id)
    with Spool(path, "trial") as spool:
        spool.metrics(9, {"reward": 1.0})
    assert sync(root).deleted == ("trial",)
    assert runs(root) == {}


def test_a_new_database_receives_everything_again(root: Path, empty_database: Path) -> None:
    write_study(root)
    sync(root)
    (root / "mlflow.db").write_bytes(empty_database.read_bytes())
    assert sync(root).runs == 3


def test_a_sender_killed_between_batches_leaves_no_duplicates(root: Path) -> None:
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo")
        for step in range(1000):
            spool.metrics(step, {"a": step, "b": math.nan, "c": math.inf})
        spool.end()
    code = (
        "import os, signal, sys\n"
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store\n"
        "from rsgrpo.tracking.sender import main\n"
        "real, calls = Store.log_batch, []\n"
        "def log_batch(*values, **named):\n"
        "    calls.append(real(*values, **named))\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Store.log_batch = log_batch\n"
        "main(sys.argv[1:])"
    )
    child = subprocess.run([sys.executable, "-c", code, str(root)], cwd=CHECKOUT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert count(root)["metrics"] == 2000
    assert sync(root).metrics == 1000
    assert (count(root)["runs"], count(root)["metrics"]) == (1, 3000)


def test_follow_ships_what_comes_and_stops_when_the_study_has_ended(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.05)
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(sync(root, follow=True)))
    thread.start()
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo")
        spool.metrics(1, {"x": 1.0})
        wait_for(lambda: count(root)["metrics"] == 1)
        spool.metrics(2, {"x": 2.0})
        wait_for(lambda: count(root)["metrics"] == 2)
        spool.metrics(3, {"x": 3.0})
    ended_file(root, os.getppid() + 1).touch()  # another caller's: not for this sender
    ended_file(root, os.getppid()).touch()
    thread.join(90)
    assert [summary.metrics for summary in summaries] == [3]


def test_follow_stops_after_a_last_pass_when_its_caller_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(root)
    callers = iter([4711])
    monkeypatch.setattr(os, "getppid", lambda: next(callers, 1))
    assert sync(root, follow=True).metrics == 11


def test_follow_makes_a_last_pass_on_sigterm(root: Path) -> None:
    command = [sys.executable, "-m", "rsgrpo.tracking.sender", str(root), "--follow"]
    child = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with Spool(root / "spool.jsonl", "r") as spool:
        spool.start("r", "demo")
        wait_for(lambda: count(root)["runs"] == 1)
        spool.metrics(1, {"x": 1.0})
        child.send_signal(signal.SIGTERM)
    printed, _ = child.communicate(timeout=90)
    assert (child.returncode, printed) == (0, "")
    assert count(root)["metrics"] == 1


def test_two_folders_with_the_same_run_are_two_runs_and_a_moved_one_is_the_same(
    tmp_path: Path,
) -> None:
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("a", "b"):
        write_trial(tmp_path / name, "trial", range(1, 4), parent=None)
        assert sync(tmp_path / name, store).runs == 1
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "moved" / ".sync.json").unlink()
    summary = sync(tmp_path / "moved", store)
    assert (summary.runs, summary.metrics) == (0, 0)


def test_a_fresh_database_is_made_without_a_word(tmp_path: Path) -> None:
    write_trial(tmp_path, "trial", range(1, 4), parent=None)
    command = [sys.executable, "-m", "rsgrpo.tracking.sender", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert count(tmp_path)["runs"] == 1
    assert not (CHECKOUT / "mlruns").exists()


@pytest.mark.parametrize(
    "arguments", [["gone"], ["empty"], ["full", "--tracking-uri", "sqlite:////gone/m.db"]]
)
def test_a_users_fault_is_one_sentence_and_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    write_trial(tmp_path / "full", "trial", range(1, 4), parent=None)
    folder, *options = arguments
    assert main([str(tmp_path / folder), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1


def test_a_deleted_experiment_is_explained(root: Path) -> None:
    from mlflow.tracking import MlflowClient

    write_study(root)
    sync(root)
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    client.delete_experiment(client.get_experiment_by_name("rsgrpo").experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        sync(root)


def test_the_environment_is_left_as_it_was(root: Path) -> None:
    write_study(root)
    before = dict(os.environ)
    sync(root)
    assert dict(os.environ) == before


def wait_for(condition: Any, seconds: float = 90.0) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
