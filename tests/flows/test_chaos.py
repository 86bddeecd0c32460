"""A sweep on two workers while everything that it stands on is killed, one after the other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from flows.services import answers
from rsgrpo.config import load_config
from rsgrpo.stages import MANIFEST
from tests.flows.conftest import CHECKOUT, RSGRPO, Platform, started_platform, wait_until
from tests.flows.test_platform import SWEEP, attempts_of, rewards_of, share_base
from tests.postgresql import Postgresql

pytestmark = pytest.mark.slow

BETAS = [0.5 * number for number in range(1, 13)]
STEPS, SAVE_EVERY = 24, 4
STUDY = [*SWEEP, "name=chaos", f"training.steps={STEPS}", f"training.save_every={SAVE_EVERY}"]
NAME = "chaos"


class Trainer(NamedTuple):
    """A process that trains, and what it has recorded."""

    pid: int
    run: str
    folder: Path

    @property
    def steps(self) -> int:
        """The steps that it has recorded."""
        return len(steps_in(self.folder / "spool.jsonl"))

    @property
    def in_the_middle(self) -> bool:
        """Whether it has saved a checkpoint and has at least one more to save."""
        saved = any((self.folder / ".work").glob("checkpoint-*"))
        return saved and SAVE_EVERY <= self.steps < STEPS - SAVE_EVERY


class Chaos(NamedTuple):
    """A platform, the storage of a sweep on it, and the file that describes the sweep."""

    platform: Platform
    storage: Postgresql
    file: Path

    def sweep(self, verb: str, *words: str) -> list[str]:
        """Return the command line of a verb that has workers run the sweep."""
        where = ["--storage", self.storage.url, "--study-name", NAME]
        return [*RSGRPO, "sweep", verb, *words, *where, "--root", "default", "--deployment"]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command as a user would."""
        return subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=self.platform.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def trainers(self) -> list[Trainer]:
        """Return the processes that train."""
        found = []
        for pid in self.platform.pids("rsgrpo.stages", "rs_grpo"):
            with suppress(psutil.NoSuchProcess, StopIteration):
                words = " ".join(psutil.Process(pid).cmdline())
                run = re.findall(r"/logs/(rs_grpo\S+)-[a-z]+-\d+\.node\.json", words)[0]
                folders = (self.platform.root / "train").glob(f"{run}-{'[0-9a-f]' * 12}")
                found.append(Trainer(pid, run, next(folders)))
        return found

    @contextmanager
    def held_trainer(self) -> Iterator[Trainer]:
        """Wait for a trainer in the middle of its steps and hold it there, that no kill misses."""
        end = time.monotonic() + 240
        while time.monotonic() < end:
            for trainer in self.trainers():
                with suppress(psutil.NoSuchProcess), held(trainer.pid):
                    if trainer.in_the_middle:
                        yield trainer
                        return
            time.sleep(0.05)
        raise AssertionError("no trainer was met in the middle of its steps")


@contextmanager
def held(pid: int) -> Iterator[None]:
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def kill_the_worker(chaos: Chaos, trainer: Trainer) -> None:
    """Kill the worker of a trainer's flow, which goes on without it."""
    flow = psutil.Process(trainer.pid).parent()
    assert flow is not None
    worker = flow.parent()
    assert worker is not None and "worker" in worker.cmdline()
    worker.kill()
    wait_until(lambda: flow.ppid() == 1, 10)


def kill_service(chaos: Chaos, *words: str) -> None:
    """Kill a server and all of its processes; `rsgrpo up` starts it again."""
    lines = {pid: psutil.Process(pid).cmdline() for pid in chaos.platform.pids(*words)}
    [server] = [psutil.Process(pid) for pid, line in lines.items() if "rsgrpo.lifeline" not in line]
    for process in [server, *server.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_prefect(chaos: Chaos, trainer: Trainer) -> None:
    health = chaos.platform.environment["PREFECT_API_URL"] + "/health"
    kill_service(chaos, "prefect server start")
    assert not answers(health)
    psutil.Process(trainer.pid).resume()  # it trains on while the server is away
    wait_until(lambda: answers(health), 120)


def kill_mlflow(chaos: Chaos, trainer: Trainer) -> None:
    kill_service(chaos, "mlflow server")
    assert not answers(chaos.platform.mlflow + "/health")
    psutil.Process(trainer.pid).resume()
    wait_until(lambda: answers(chaos.platform.mlflow + "/health"), 120)


def kill_postgresql(chaos: Chaos, trainer: Trainer) -> None:
    chaos.storage.kill()
    psutil.Process(trainer.pid).resume()
    time.sleep(3.0)  # long enough for everybody to miss it
    chaos.storage.start()


def kill_the_trainer(chaos: Chaos, trainer: Trainer) -> None:
    os.kill(trainer.pid, signal.SIGKILL)


# The command itself is killed last: its trainer's unit may have been begun again by then.
KILLS: dict[str, Callable[[Chaos, Trainer], None]] = {
    "trainer": kill_the_trainer,
    "worker": kill_the_worker,
    "prefect": kill_prefect,
    "mlflow": kill_mlflow,
    "postgresql": kill_postgresql,
}


def write_sweep(folder: Path) -> Path:
    """Write the sweep: twelve betas, one seed."""
    tree = load_config(None, STUDY).model_dump(mode="json")
    tree["sweep"] = {
        "space": {"training.risk_beta": {"values": BETAS}},
        "seeds": [0],
        "objectives": ["pass_at_1", "pass_at_4"],
    }
    (folder / "chaos.yaml").write_text(yaml.safe_dump(tree))
    return folder / "chaos.yaml"


def steps_in(spool: Path) -> list[int]:
    """Return the steps of training in the order in which they were recorded."""
    with suppress(FileNotFoundError):
        records = (json.loads(line) for line in spool.read_text().splitlines() if line[-1:] == "}")
        return [r["step"] for r in records if r["kind"] == "metrics" and "reward" in r["values"]]
    return []


def values_of(storage: str) -> dict[float, list[float]]:
    """Return the values of each beta; every trial of the study must be complete."""
    import optuna

    trials = optuna.load_study(study_name=NAME, storage=storage).trials
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 12}
    return {trial.params["training.risk_beta"]: trial.values for trial in trials}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the same sweep, run here by two processes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "worker.yaml").write_text(yaml.safe_dump({"roots": {"default": str(folder / "out")}}))
    environment = {**os.environ, "RSGRPO_WORKER": str(folder / "worker.yaml")}
    environment |= {"OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
    command = ["sweep", "run", str(write_sweep(folder)), "--study-name", NAME, "--workers", "2"]
    done = subprocess.run(
        [*RSGRPO, *command],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


@pytest.fixture(scope="module")
def killed(
    undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Chaos, str]]:
    """The sweep after all kills and `resume`, and the run whose trainer was killed."""
    from tests.postgresql import postgresql_server

    folder = tmp_path_factory.mktemp("chaos")
    with postgresql_server() as storage, started_platform(folder, workers=2) as platform:
        share_base(undisturbed, platform.root)
        chaos = Chaos(platform, storage, write_sweep(folder))
        with chaos.start(*chaos.sweep("run", str(chaos.file))) as command:
            try:
                victims = kill_all(chaos, command)
            finally:
                command.kill()
                command.communicate(timeout=30)
        assert len(unfinished(platform.root)) >= 2, "the kills came too late to leave work"
        platform.run(*chaos.sweep("resume"), timeout=900)
        yield chaos, victims["trainer"]


def kill_all(chaos: Chaos, command: subprocess.Popen[str]) -> dict[str, str]:
    """Kill everything, each while a trainer is at work, the command last; return whose trainer."""
    victims = {}
    for whom, kill in KILLS.items():
        with chaos.held_trainer() as trainer:
            assert command.poll() is None, command.communicate()[0]
            kill(chaos, trainer)
            victims[whom] = trainer.run
    with chaos.held_trainer():
        assert command.poll() is None, command.communicate()[0]
        command.kill()
    return victims


def unfinished(root: Path) -> list[float]:
    """Return the betas whose scores are not there yet."""
    return [
        beta
        for beta in BETAS
        if not list((root / "score").glob(f"rs_grpo-beta{beta:g}-seed0-*/{MANIFEST}"))
    ]


def test_twelve_trials_are_complete_with_the_values_of_an_undisturbed_sweep(
    killed: tuple[Chaos, str], undisturbed: Path
) -> None:
    found, expected = (
        values_of(killed[0].storage.url),
        values_of(f"sqlite:///{undisturbed}/optuna.db"),
    )
    assert found == expected
    assert sorted(found) == BETAS
    assert len({tuple(values) for values in found.values()}) > 4, "the betas must differ"


def test_no_stage_and_no_step_was_run_twice(killed: tuple[Chaos, str], undisturbed: Path) -> None:
    chaos, victim = killed
    begun = Counter(log.stem.rpartition("-")[0] for log in attempts_of(chaos.platform.root))
    twice = {name for name, times in begun.items() if times > 1}
    assert [name.startswith(victim) for name in twice] == [True], "what nobody had killed"
    assert max(begun.values()) == 2, "its trainer was killed once"
    for spool in (chaos.platform.root / "train").glob("*/spool.jsonl"):
        steps = steps_in(spool)
        assert sorted(set(steps)) == list(range(1, STEPS + 1))
        back = [before - after + 1 for before, after in pairwise(steps) if after != before + 1]
        repeated = victim in spool.parent.name
        assert len(back) <= repeated and all(again <= SAVE_EVERY for again in back), steps
        assert len(steps) == STEPS + sum(back)


def test_mlflow_holds_every_metric_of_every_run_once(
    killed: tuple[Chaos, str], undisturbed: Path
) -> None:
    chaos, _ = killed
    found = rewards_of(chaos.platform)
    assert found == {
        spool.parent.name.rpartition("-")[0]: rewards_in(spool)
        for spool in (undisturbed / "train").glob("*/spool.jsonl")
    }
    assert len(found) == 12


def rewards_in(spool: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in spool.read_text().splitlines()]
    return [
        (record["step"], record["values"]["reward"])
        for record in records
        if record["kind"] == "metrics" and "reward" in record["values"]
    ]


def test_the_ledger_says_how_each_unit_ended(killed: tuple[Chaos, str]) -> None:
    [file] = killed[0].platform.root.glob("sweeps/*/attempts.jsonl")
    attempts: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    finished = Counter(row["trial"] for row in attempts if row["ending"] == "finished")
    assert finished == dict.fromkeys(range(12), 1)
    assert Counter(row["ending"] for row in attempts)["killed"] >= 1
