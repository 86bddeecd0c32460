"""Units: one (trial, seed) each, run by this process or by whichever worker takes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Cancelling

from flows.run_stages import is_stopping, stop_stages
from flows.run_trial import run_trial
from flows.trial_units import TrialUnit
from rsgrpo.config import Config
from rsgrpo.errors import UserError
from rsgrpo.study import run_identity, study_configs
from rsgrpo.worker import Execution

DEPLOYMENT = "run-trial/run-trial"
POLL_SECONDS = 1.0


class Unit(NamedTuple):
    """What a worker takes: a run to train and evaluate, or something else to evaluate alone.

    `config` holds the unit's own beta and seed in its `training` branch; `policy` is as for
    `named_run`.
    """

    name: str
    config: Config
    policy: str


class Outcome(NamedTuple):
    """A unit that is over; `fault` is the sentence of one that failed."""

    unit: Unit
    fault: str | None


def base_unit(config: Config) -> Unit:
    """Return the evaluation of the base policy, with its pre-training where it is made here."""
    return Unit("base", config, "base")


def trained_units(config: Config) -> list[Unit]:
    """Return a unit for each run of the study: GRPO, then each beta, each with every seed."""
    return [Unit(run_identity(c)["policy"], c, "trained") for c in study_configs(config)]


def other_units(config: Config) -> list[Unit]:
    """Return a unit for each file of rollouts made elsewhere."""
    return [Unit(name, config, name) for name in config.study.rollouts]


def run_units(units: Iterable[Unit], execution: Execution) -> Iterator[Outcome]:
    """Run units, `execution.at_once` at a time, and yield each one as it ends.

    Units are taken from the iterable one by one, as there is room for them; one that fails does not
    stop the others.
    """
    running: dict[PrefectFuture[Any], Unit] = {}
    try:
        for unit in units:
            if len(running) == execution.at_once:
                yield _first_to_end(running)
            running[_take(unit, execution)] = unit
        while running:
            yield _first_to_end(running)
    except BaseException:
        stop_stages()
        raise


def finish_units(units: Iterable[Unit], execution: Execution) -> None:
    """Run units to their end.

    Raises:
        UserError: Some failed; the sentence names them and why the first did.
    """
    refuse_failed([outcome for outcome in run_units(units, execution) if outcome.fault])


@contextmanager
def beside(units: Sequence[Unit], execution: Execution) -> Iterator[None]:
    """Have workers run units while the body has others run; without workers they come first.

    Raises:
        UserError: As for `finish_units`.
    """
    if execution.units == "here":
        finish_units(units, execution)
        yield
        return
    running = {_take(unit, execution): unit for unit in units}
    try:
        yield
        outcomes = [_first_to_end(running) for _ in units]
    except BaseException:
        stop_stages()
        raise
    refuse_failed([outcome for outcome in outcomes if outcome.fault])


def refuse_failed(failed: list[Outcome]) -> None:
    """Raise one UserError for the units that failed, if any did."""
    if failed:
        names = ", ".join(outcome.unit.name for outcome in failed)
        raise UserError(
            f"{len(failed)} runs failed ({names}), the first because: {failed[0].fault}; run the "
            "same command again, what is finished is kept"
        )


@task(cache_policy=NO_CACHE, persist_result=False)
def take_unit(
    config: dict[str, Any],
    execution: dict[str, Any],
    policy: str,
    unit: dict[str, Any] | None = None,
) -> None:
    """Run one unit here, or hand it to a worker and wait for it.

    Args:
        config: The study's config.
        execution: Where and how.
        policy: As for `run_trial`.
        unit: Of a sweep, as for `run_trial`, run here.

    Raises:
        UserError: The unit failed or was stopped.
    """
    if execution["units"] == "here":
        of_sweep = TrialUnit.model_validate(unit) if unit else None
        here = Execution.model_validate(execution)
        run_trial(Config.model_validate(config), here, policy, of_sweep)
        return
    parameters = {
        "config": config,
        "execution": {**execution, "units": "here", "at_once": 1},
        "policy": policy,
    }
    _wait_for_worker(run_deployment(DEPLOYMENT, parameters=parameters, timeout=0).id)


def _take(unit: Unit, execution: Execution) -> PrefectFuture[Any]:
    plain = (unit.config.model_dump(mode="json"), execution.model_dump(mode="json"))
    return take_unit.with_options(task_run_name=unit.name).submit(*plain, unit.policy)


def _first_to_end(running: dict[PrefectFuture[Any], Unit]) -> Outcome:
    future = next(iter(as_completed(list(running))))
    future.wait()  # its state is the final one only then
    return Outcome(running.pop(future), fault_of(future.state))


def fault_of(state: State) -> str | None:
    """Return the sentence of a run that failed, None of one that did not."""
    if state.is_completed():
        return None
    return (state.message or str(state.name)).rpartition("UserError: ")[2]


def _wait_for_worker(flow_run: UUID) -> None:
    while not (state := _state_of(flow_run)) or not state.is_final():
        if is_stopping():
            _cancel(flow_run)
            raise UserError("the unit was stopped with the flow that asked for it")
        time.sleep(POLL_SECONDS)
    if not state.is_completed():
        raise UserError(f"its flow run ended as {state.name}: {state.message or 'see its logs'}")


def _state_of(flow_run: UUID) -> State | None:
    """Return a flow run's state, None while the server does not answer."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except ObjectNotFound:
        raise UserError(
            f"its flow run {flow_run} was deleted: run the same command again"
        ) from None
    except Exception:  # a server that is away comes back; the worker goes on meanwhile
        return None


def _cancel(flow_run: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelling())
