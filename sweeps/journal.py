"""What the seeds of a trial leave behind, and what their MLflow runs are told when it ends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rsgrpo.stages import find, folder_of
from rsgrpo.tracking.journal import record_evaluations, training_run
from rsgrpo.tracking.spool import SPOOL_NAME, Spool, read_spool
from sweeps.at_work import Seed, TrialAtWork
from sweeps.study import Opened
from sweeps.telling import Account
from sweeps.units import Unit


def what_is_left(root: Path, trial: TrialAtWork) -> Account:
    """Return the MLflow run, the score and the tokens of each seed, as far as there are any.

    Args:
        root: The folder of all stages' folders.
        trial: Its seeds' folders are looked up there.
    """
    runs, scores, tokens = {}, {}, 0
    for seed, one in trial.seeds.items():
        training = _training_folder(root, one.unit)
        if training is None:
            continue
        runs[str(seed)] = training_run(one.unit.run.name, training)
        tokens += _tokens(one, training)
        if score := find(root, one.unit.run.score):
            scores[str(seed)] = score.relative_to(root).as_posix()
    return Account(runs, scores, tokens)


def record_end(opened: Opened, trial: TrialAtWork, account: Account) -> None:
    """Tag the training runs of a trial that has ended, and record the evaluations that it has.

    Args:
        opened: The study; the spool of its root takes both.
        trial: The trial.
        account: As `what_is_left` returns it.
    """
    root, number = opened.root, trial.claim.number
    attempts = [one for one in opened.ledger.attempts() if one.trial == number]
    for seed, run in account.runs.items():
        seconds = sum(one.device_seconds for one in attempts if one.seed == int(seed))
        reason = trial.end.reason if trial.end else "done"
        one = trial.seeds[int(seed)]
        training = _training_folder(root, one.unit)
        assert training is not None
        with Spool(root / SPOOL_NAME, run) as spool:
            spool.tags(
                {
                    "sweep.study": opened.name,
                    "sweep.trial": str(number),
                    "sweep.end_reason": reason,
                    "sweep.tokens": str(_tokens(one, training)),
                    "sweep.device_seconds": f"{seconds:.1f}",
                }
            )
    for seed, score in account.scores.items():
        unit = trial.seeds[int(seed)].unit
        training = _training_folder(root, unit)
        assert training is not None
        scores, trainings = {unit.run.name: root / score}, {unit.run.name: training}
        record_evaluations(root, unit.config, scores, trainings)


def tokens_of(spool: Path) -> int:
    """Return how many tokens a training run has seen, 0 where it has said nothing."""
    seen = 0.0
    with suppress(FileNotFoundError):
        for record in read_spool(spool):
            if record["kind"] == "metrics":
                seen = max(seen, record["values"].get("num_tokens", 0.0))
    return int(seen)


def run_tokens(root: Path, unit: Unit) -> int:
    """Return how many tokens a unit's training has seen so far."""
    folder = _training_folder(root, unit)
    return tokens_of(folder / SPOOL_NAME) if folder else 0


def _tokens(seed: Seed, training: Path) -> int:
    return seed.seen.tokens if seed.seen else tokens_of(training / SPOOL_NAME)


def _training_folder(root: Path, unit: Unit) -> Path | None:
    """Return the folder of a unit's training, finished or not; None where it never began."""
    training = unit.run.training
    folder = folder_of(root, training) if training else None
    return folder if folder and folder.exists() else None
