"""Which trial a coordinator takes next, so that each is taken by one and none is lost.

A claim is made alone, under the ledger's lock, and may be interrupted at any line: what it leaves
is a trial that waits, or one that runs without a living holder, and the next claim takes that one
first. It may be repeated where its storage gave no answer, for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.errors import UserError
from sweeps.ledger import Lease, trial_lease
from sweeps.provenance import Provenance
from sweeps.space import Point, decoded, suggest, trial_config
from sweeps.study import Opened, counted, enqueue_point, target
from sweeps.telling import ENDING, Account, tell_failed
from sweeps.units import Unit

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

FEWEST_ENDED = 4


class Claim(NamedTuple):
    """A trial that this process holds, with a unit for each seed.

    `end_reason` is why it was being ended when its last holder went away, None where it was not.
    """

    trial: optuna.Trial
    lease: Lease
    units: tuple[Unit, ...]
    end_reason: str | None

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial.number


def claim(opened: Opened, made_with: Provenance) -> Claim | None:
    """Take the next trial: one whose holder is gone, one that waits, or a new one.

    A trial whose point the config refuses has failed; the next one is taken.

    Args:
        opened: The study.
        made_with: What this process runs trials with; kept with the trial.

    Returns:
        None where no trial is left to take, or too many have failed.
    """
    with opened.ledger.alone():
        while taken := _taken(opened, made_with):
            trial, lease = taken
            with _given_back(lease):
                try:
                    return _described(opened, trial, lease, made_with)
                except UserError as refusal:
                    tell_failed(opened, trial, str(refusal), Account({}, {}, 0))
            lease.release()
    return None


def failure_fault(opened: Opened) -> str | None:
    """Return the sentence that says that too many trials have failed; None where not."""
    return _failure_fault(opened, opened.study.get_trials(deepcopy=False))


def is_over(opened: Opened) -> bool:
    """Return whether every trial that there shall be has ended, whoever ran it."""
    trials = counted(opened.study.get_trials(deepcopy=False))
    ended = sum(trial.state.is_finished() for trial in trials)
    return ended == len(trials) and ended >= target(opened)


def _taken(opened: Opened, made_with: Provenance) -> tuple[optuna.Trial, Lease] | None:
    import optuna
    from optuna.trial import TrialState

    trials = opened.study.get_trials(deepcopy=False)
    for stored in trials:
        if stored.state == TrialState.RUNNING:
            lease = opened.ledger.take(trial_lease(stored.number))
            if lease is not None:
                with _given_back(lease):
                    return optuna.Trial(opened.study, stored._trial_id), lease
    if _failure_fault(opened, trials) or not _queue(opened, trials, made_with):
        return None
    trial = opened.study.ask()
    lease = opened.ledger.take(trial_lease(trial.number))
    if lease is None:
        raise UserError(
            f"trial {trial.number} was new and its lease is held: another study of the name "
            f"{opened.name} uses {opened.ledger.folder}; choose another --study-name"
        )
    return trial, lease


@contextmanager
def _given_back(lease: Lease) -> Iterator[None]:
    """Give a lease back where the body fails: this process lives on and would hold it for good."""
    try:
        yield
    except BaseException:
        lease.release()
        raise


def _queue(opened: Opened, trials: list[FrozenTrial], made_with: Provenance) -> bool:
    """See to it that a trial waits; False where there shall be no further one."""
    from optuna.trial import TrialState

    if any(trial.state == TrialState.WAITING for trial in trials):
        return True
    if len(counted(trials)) >= target(opened):
        return False
    # with what is known of it already: each attribute that is set later is a commit of its own
    attributes = {"seeds": list(opened.plan.sweep.seeds), **made_with._asdict()}
    if opened.plan.sweep.sampler.name == "grid":
        return enqueue_point(opened, trials, attributes)
    opened.study.enqueue_trial({}, user_attrs=attributes)
    return True


def _failure_fault(opened: Opened, trials: list[FrozenTrial]) -> str | None:
    from optuna.trial import TrialState

    ended = [trial for trial in counted(trials) if trial.state.is_finished()]
    failed = [trial for trial in ended if trial.state == TrialState.FAIL]
    limit = opened.plan.sweep.max_failure_rate
    if len(ended) < FEWEST_ENDED or len(failed) <= limit * len(ended):
        return None
    reason = failed[-1].user_attrs.get("end_reason", "see `rsgrpo sweep trials`")
    return (
        f"{len(failed)} of {len(ended)} ended trials have failed, more than "
        f"sweep.max_failure_rate {limit:g} allows, the last because: {reason}"
    )


def _described(opened: Opened, trial: optuna.Trial, lease: Lease, made: Provenance) -> Claim:
    """Suggest what the trial's point lacks, and keep with it what it is run with."""
    plan, known = opened.plan, trial.user_attrs
    suggest(trial, plan.sweep)
    point: Point = decoded(trial.params, plan.sweep)
    seeds = plan.sweep.seeds
    configs = [trial_config(plan.config, point, seed) for seed in seeds]
    attributes: dict[str, Any] = {
        "seeds": list(seeds),
        "config": configs[0].model_dump_json(),
        **made._asdict(),
    }
    for name, value in attributes.items():
        if known.get(name) != value:
            trial.set_user_attr(name, value)
    units = tuple(
        Unit(opened.name, trial.number, seed, config)
        for seed, config in zip(seeds, configs, strict=True)
    )
    return Claim(trial, lease, units, known.get(ENDING))
