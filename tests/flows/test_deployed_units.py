"""Units handed to workers: each dispatched once, awaited through outages, its end told right."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect.client.schemas.objects import State
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
)

from flows import deployed_units
from flows.deployed_units import DeployedRunner
from flows.flow_runs import FlowRuns, ServerAway
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.worker import Execution
from sweeps.ledger import Ledger, unit_lease
from sweeps.local_units import LocalRunner
from sweeps.units import Outcome, StoppedError, Unit


class Server:
    """What a Prefect server does with flow runs; `away` has it answer nothing."""

    server = "http://127.0.0.1:4200/api"

    def __init__(self) -> None:
        self.state_of: dict[UUID, State[Any]] = {}
        self.run_of: dict[str, UUID] = {}
        self.parameters: list[Mapping[str, Any]] = []
        self.cancelled: list[UUID] = []
        self.crashed: list[UUID] = []
        self.away = False

    def begin(self, key: str, name: str, parameters: Mapping[str, Any]) -> UUID:
        self._answer()
        known = self.run_of.get(key)
        if known is None or self.state_of[known].is_final():
            self.parameters.append(parameters)
            self.run_of[key] = known = uuid4()
            self.state_of[known] = Scheduled()
        return known

    def states(self, runs: Sequence[UUID]) -> dict[UUID, State[Any]]:
        self._answer()
        return {run: self.state_of[run] for run in runs}

    def cancel(self, run: UUID) -> None:
        self._answer()
        self.cancelled.append(run)

    def crash(self, run: UUID, message: str) -> None:
        self._answer()
        self.crashed.append(run)

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.away:
            raise ServerAway("connection refused")

    @property
    def only(self) -> UUID:
        [run] = self.state_of
        return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    (tmp_path / "worker.yaml").write_text(yaml.safe_dump({"roots": {"default": str(tmp_path)}}))
    monkeypatch.setenv("RSGRPO_WORKER", str(tmp_path / "worker.yaml"))
    monkeypatch.setattr(deployed_units, "POLL_SECONDS", 0.0)
    server = Server()
    monkeypatch.setattr(deployed_units, "FlowRuns", lambda name: server)
    return server


UNIT = Unit("study", 3, 1, Config())
LEASE = unit_lease(UNIT)


def runner_at(folder: Path, lines: list[str] | None = None) -> DeployedRunner:
    ledger = Ledger(folder / "sweeps" / "study")
    return DeployedRunner(Execution(), ledger, (lines if lines is not None else []).append)


def at_work(server: Server, folder: Path) -> Any:
    """Do what the flow of a unit does first: return its lease."""
    lease = Ledger(folder / "sweeps" / "study").begin(UNIT)
    assert lease is not None
    lease.say(flow_run=str(server.only))
    server.state_of[server.only] = Running()
    return lease


def test_a_unit_is_dispatched_with_its_own_config_and_said_over_when_its_run_is(
    server: Server, tmp_path: Path
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    assert runner.poll() == []
    [parameters] = server.parameters
    assert parameters["unit"] == {"study": "study", "trial": 3, "seed": 1}
    assert Config.model_validate(parameters["config"]) == UNIT.config
    assert json.dumps(parameters)
    server.state_of[server.only] = Failed(message="it raised an exception: UserError: no data")
    assert runner.poll() == [Outcome(UNIT, "failed", "no data")]
    assert runner.poll() == []


def test_a_finished_unit_is_finished_whatever_its_state_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    server.state_of[server.only] = Crashed()
    monkeypatch.setattr(deployed_units, "find", lambda root, node: root)
    assert runner.poll() == [Outcome(UNIT, "finished")]


def test_a_killed_coordinator_finds_the_run_that_it_had_dispatched(
    server: Server, tmp_path: Path
) -> None:
    first = runner_at(tmp_path)
    first.start(UNIT)
    first.poll()
    second = runner_at(tmp_path)
    second.start(UNIT)
    assert second.poll() == []
    assert len(server.parameters) == 1
    server.state_of[server.only] = Crashed(message="its process ended")
    assert second.poll() == [Outcome(UNIT, "killed", "its process ended")]
    second.start(UNIT)
    second.poll()
    assert len(server.parameters) == 2


@pytest.mark.parametrize(
    ("state", "ending"), [(Cancelled(), "stopped"), (Crashed(message="gone"), "killed")]
)
def test_how_a_run_ended_says_whether_it_is_tried_again(
    server: Server, tmp_path: Path, state: State[Any], ending: str
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    server.state_of[server.only] = state
    assert [outcome.ending for outcome in runner.poll()] == [ending]


def test_what_the_flow_recorded_counts_more_than_the_state_it_left(
    server: Server, tmp_path: Path
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    lease = at_work(server, tmp_path)
    assert runner.poll() == []
    lease.end("stopped", "its flow run was cancelled")
    server.state_of[server.only] = Crashed(message="SIGTERM")
    assert runner.poll() == [Outcome(UNIT, "stopped", "its flow run was cancelled")]


def test_a_dead_server_is_waited_for_and_said_once_while_units_go_on(
    server: Server, tmp_path: Path
) -> None:
    lines: list[str] = []
    runner = runner_at(tmp_path, lines)
    server.away = True
    runner.start(UNIT)
    assert [runner.poll() for _ in range(3)] == [[], [], []]
    server.away = False
    runner.poll()
    lease = at_work(server, tmp_path)
    runner.poll()
    server.away = True
    assert runner.poll() == []
    lease.end("failed", "no space is left")
    assert runner.poll() == [Outcome(UNIT, "failed", "no space is left")]
    assert [line.split(" (")[0].split("api ")[1] for line in lines] == [
        "does not answer",
        "answers again",
        "does not answer",
    ]
    assert len(server.parameters) == 1


def test_a_flow_at_work_is_awaited_though_its_server_takes_it_for_dead(
    server: Server, tmp_path: Path
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    lease = at_work(server, tmp_path)
    runner.poll()
    server.state_of[server.only] = Crashed(message="No heartbeat for two minutes")
    assert runner.poll() == []
    lease.end("failed", "no space is left")
    assert runner.poll() == [Outcome(UNIT, "failed", "no space is left")]


def test_a_flow_that_was_killed_is_known_by_its_lease_before_the_server_knows(
    server: Server, tmp_path: Path
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    at_work(server, tmp_path)
    runner.poll()
    file = tmp_path / "sweeps" / "study" / "leases" / f"{LEASE}.json"
    content = json.loads(file.read_text())
    content["holder"]["started"] -= 1  # another process has its id now
    file.write_text(json.dumps(content))
    assert [outcome.ending for outcome in runner.poll()] == ["killed"]
    assert server.crashed == [server.only]


@pytest.mark.parametrize("state", [Pending(), Running(), Cancelling()])
def test_a_run_that_was_taken_and_killed_before_it_held_its_lease_is_dispatched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State[Any]
) -> None:
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    server.state_of[server.only] = state
    assert runner.poll() == []
    monkeypatch.setattr(deployed_units, "UNBEGUN_SECONDS", 0.0)
    assert [outcome.ending for outcome in runner.poll()] == ["killed"]


def test_a_unit_that_another_coordinator_has_taken_goes_on_for_it(
    server: Server, tmp_path: Path
) -> None:
    first, second = runner_at(tmp_path), runner_at(tmp_path)
    first.start(UNIT)
    first.poll()
    at_work(server, tmp_path)
    second.start(UNIT)
    assert second.poll() == []
    first.leave([UNIT])
    assert [outcome.ending for outcome in first.poll()] == ["stopped"]
    first.close()
    assert (server.cancelled, Ledger(tmp_path / "sweeps" / "study").stop_asked(LEASE)) == ([], None)
    assert second.poll() == []


def test_a_run_is_not_given_up_for_what_its_server_or_another_run_of_its_unit_takes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed_units, "UNBEGUN_SECONDS", 0.05)
    runner = runner_at(tmp_path)
    runner.start(UNIT)
    runner.poll()
    server.state_of[server.only] = Pending()
    runner.poll()
    server.away = True
    time.sleep(0.06)
    assert runner.poll() == []
    server.away = False
    assert runner.poll() == []
    other = Ledger(tmp_path / "sweeps" / "study").begin(UNIT)
    assert other is not None
    server.state_of[server.only] = Running()
    time.sleep(0.06)
    assert runner.poll() == []


def test_a_stop_is_heard_while_the_base_waits_for_a_server_that_is_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalRunner, "prepare", lambda *words, **options: None)
    runner, states = runner_at(tmp_path), server.states

    def goes_away(runs: Sequence[UUID]) -> dict[UUID, State[Any]]:
        server.away = True
        Ledger(tmp_path / "sweeps" / "study").ask_stop("sweep stop")
        return states(runs)

    monkeypatch.setattr(server, "states", goes_away)
    with pytest.raises(StoppedError, match="sweep stop"):
        runner.prepare(Config(), evaluate_base=True)


def test_a_run_that_is_being_cancelled_is_not_found_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [Cancelled(), Cancelling(), Running()]

    def create(deployment: UUID, idempotency_key: str, **words: Any) -> Any:
        number = int(idempotency_key.rpartition("-")[2])
        return SimpleNamespace(id=number, state=states[number])

    client = SimpleNamespace(create_flow_run_from_deployment=create)
    monkeypatch.setattr(FlowRuns, "_connected", lambda self: client)
    monkeypatch.setattr(FlowRuns, "_deployment_id", lambda self, client: uuid4())
    assert FlowRuns("run-trial/run-trial").begin("key", "name", {}) == 2


def test_a_unit_at_work_is_stopped_through_its_lease_and_one_that_is_not_through_its_run(
    server: Server, tmp_path: Path
) -> None:
    runner = runner_at(tmp_path)
    ledger = Ledger(tmp_path / "sweeps" / "study")
    runner.start(UNIT)
    runner.poll()
    runner.stop([UNIT])
    runner.poll()
    assert server.cancelled == [server.only]
    server.cancelled.clear()
    at_work(server, tmp_path)
    runner.poll()
    assert (server.cancelled, ledger.stop_asked(LEASE)) == ([], "the sweep asked for it")
    server.state_of[server.only] = Completed()
    runner.poll()
    runner.start(UNIT)
    assert ledger.stop_asked(LEASE) is None


def test_a_run_that_dies_while_it_is_cancelled_holds_no_place_of_its_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proposed: list[str] = []

    def propose(run: UUID, state: State[Any]) -> Any:
        proposed.append(state.type.value)
        return SimpleNamespace(state=state if state.is_cancelled() else Cancelling())

    client = SimpleNamespace(set_flow_run_state=propose)
    monkeypatch.setattr(FlowRuns, "_connected", lambda self: client)
    FlowRuns("run-trial/run-trial").crash(uuid4(), "its process is gone")
    assert proposed == ["CRASHED", "CANCELLED"]


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (503, ServerAway, "status 503"),
        (429, ServerAway, "status 429"),
        (401, UserError, "refuses with status 401: look at PREFECT_API_URL"),
    ],
)
def test_a_server_that_is_busy_is_waited_for_and_one_that_refuses_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception], sentence: str
) -> None:
    request = httpx.Request("POST", "http://127.0.0.1:4200/api/flow_runs/filter")

    def read(**words: Any) -> Any:
        httpx.Response(status, request=request).raise_for_status()

    client = SimpleNamespace(read_flow_runs=read)
    monkeypatch.setattr(FlowRuns, "_connected", lambda self: client)
    with pytest.raises(kind, match=sentence):
        FlowRuns("run-trial/run-trial").states([uuid4()])
