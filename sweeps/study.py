"""A sweep as an Optuna study: made, opened again, made longer, its failed trials queued anew.

The study itself says all that is needed to go on with it: the whole config, what varies, where the
results lie, how many trials there shall be.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgrpo.config import Config
from rsgrpo.errors import UserError, unknown
from sweeps.config import SweepConfig
from sweeps.ledger import Ledger
from sweeps.samplers import pruner_of, sampler_of
from sweeps.space import Sweep, encoded, grid_points, refuse_beyond_grid
from sweeps.storage import open_storage, shown

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

CONFIG, SWEEP, ROOT, TRIALS = "rsgrpo.config", "rsgrpo.sweep", "rsgrpo.root", "rsgrpo.trials"
POINT, RETRY_OF = "point", "retry_of"


class Opened(NamedTuple):
    """A study with its sweep's settings, its output root and its ledger."""

    study: optuna.Study
    plan: Sweep
    root: Path
    ledger: Ledger

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study.study_name)


def create(plan: Sweep, storage: str, name: str, root: Path) -> Opened:
    """Make the study of a sweep; one that is there already with the same settings is opened.

    Args:
        plan: What the sweep is.
        storage: As for `open_storage`.
        name: The study's name.
        root: The output root, where the ledger is kept too.

    Raises:
        UserError: The name is taken by another sweep, or by one with another root, or the storage
            does not answer.
    """
    import optuna

    check_name(name)
    refuse_beyond_grid(plan.sweep, _trials_of(plan.sweep))
    opened_storage, ledger = open_storage(storage), Ledger(ledger_folder(root, name))
    with ledger.alone():
        study = optuna.create_study(
            storage=opened_storage,
            study_name=name,
            directions=[objective.direction for objective in plan.sweep.objectives],
            load_if_exists=True,
        )
        _describe(study, plan, root)
    return _opened(study, root)


def load(storage: str, name: str, root: Path | None = None) -> Opened:
    """Open a study that `create` made.

    Args:
        storage: As for `open_storage`.
        name: The study's name.
        root: Where the output root lies as seen from here; where the study says by default.

    Raises:
        UserError: There is no such study, it is no sweep of ours, or its root is another or not
            here.
    """
    import optuna

    opened_storage = open_storage(storage)
    try:
        study = optuna.load_study(study_name=name, storage=opened_storage)
    except KeyError:
        raise UserError(_no_such_study(opened_storage, storage, name)) from None
    attributes = study.user_attrs
    if missing := {CONFIG, SWEEP, ROOT, TRIALS} - attributes.keys():
        raise UserError(
            f"study {name!r} in {shown(storage)} lacks {', '.join(sorted(missing))}: it is no "
            "sweep of rsgrpo, or its creation was interrupted; run `rsgrpo sweep create` again"
        )
    root = root or Path(attributes[ROOT])
    if not root.is_dir():  # a ledger made anew would say that nobody works on it
        raise UserError(
            f"the results of study {name!r} lie in {root}, which is not here: mount it, or name "
            "the root that is the same folder here with --root"
        )
    return _opened(study, root)


def ledger_folder(root: Path, name: str) -> Path:
    """Return where the ledger of a study lies."""
    return root / "sweeps" / name


def check_name(name: str) -> None:
    """Refuse a study's name that cannot be a folder's and the name of the config of its trials.

    Raises:
        UserError: It begins with a dot, or holds more than letters, digits, '.', '_' and '-'.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise UserError(
            f"study name {name!r} cannot be a folder's: use letters, digits, '.', '_' and '-', no "
            "dot first"
        )


def target(opened: Opened) -> int:
    """Return how many trials there shall be."""
    return int(opened.study.user_attrs[TRIALS])


def counted(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: not those that failed and were replaced by another try."""
    replaced = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if trial.number not in replaced]


def extend(opened: Opened, more: int) -> int:
    """Have further trials; return how many there shall be now.

    Raises:
        UserError: The grid has no further points.
    """
    with opened.ledger.alone():
        wanted = target(opened) + more
        refuse_beyond_grid(opened.plan.sweep, wanted)
        opened.study.set_user_attr(TRIALS, wanted)
    return wanted


def retry_failed(opened: Opened) -> list[int]:
    """Queue another try of each trial that failed; return the numbers of those that had failed.

    A trial that has been replaced already is left alone, however often this is called.
    """
    from optuna.trial import TrialState

    with opened.ledger.alone():
        trials = opened.study.get_trials(deepcopy=False)
        failed = [trial for trial in counted(trials) if trial.state == TrialState.FAIL]
        for trial in failed:
            kept = {key: trial.user_attrs[key] for key in (POINT,) if key in trial.user_attrs}
            attributes = {**kept, RETRY_OF: trial.number}
            opened.study.enqueue_trial(trial.params, user_attrs=attributes)
    return [trial.number for trial in failed]


def enqueue_point(
    opened: Opened, trials: list[optuna.trial.FrozenTrial], attributes: Mapping[str, Any]
) -> bool:
    """Queue the first point of the grid that no trial has; False where there is none.

    Args:
        opened: The study; its ledger's lock is held.
        trials: All of its trials.
        attributes: What is kept with the trial.
    """
    taken = {trial.user_attrs.get(POINT) for trial in trials}
    for index, point in enumerate(grid_points(opened.plan.sweep)):
        if index not in taken:
            opened.study.enqueue_trial(encoded(point), user_attrs={**attributes, POINT: index})
            return True
    return False


def _opened(study: optuna.Study, root: Path) -> Opened:
    attributes = study.user_attrs
    config = Config.model_validate(json.loads(attributes[CONFIG]))
    sweep = SweepConfig.model_validate(json.loads(attributes[SWEEP]))
    study.sampler, study.pruner = sampler_of(sweep.sampler), pruner_of(sweep.pruner)
    ledger = Ledger(ledger_folder(root, study.study_name))
    _refuse_second_ledger(Path(attributes[ROOT]), root, study.study_name)
    return Opened(study, Sweep(config, sweep), root, ledger)


def _refuse_second_ledger(own: Path, root: Path, name: str) -> None:
    """Refuse a root beside the study's own: who works there would not be seen, trials run twice."""
    there, here = ledger_folder(own, name), ledger_folder(root, name)
    if there.is_dir() and not there.samefile(here):
        raise UserError(
            f"study {name!r} has its results and its ledger in {own}, and the root asked for is "
            f"{root}: name the study's own with --root, or choose another --study-name"
        )


def _describe(study: optuna.Study, plan: Sweep, root: Path) -> None:
    """Write what the study is; a creation that was interrupted is completed."""
    described = {CONFIG: plan.config.model_dump_json(), SWEEP: plan.sweep.model_dump_json()}
    known = study.user_attrs
    for key, text in described.items():
        if key in known and json.loads(known[key]) != json.loads(text):
            raise UserError(
                f"study {study.study_name!r} is there with other settings ({key} differs): choose "
                "another --study-name, or delete it with `rsgrpo sweep delete`"
            )
    if study.directions != _directions(plan.sweep):
        raise UserError(
            f"study {study.study_name!r} is there with other objectives: choose "
            "another --study-name"
        )
    trials = _trials_of(plan.sweep)
    _name_metrics(study, plan.sweep)
    for key, value in {**described, ROOT: str(root.absolute()), TRIALS: trials}.items():
        if key not in known:
            study.set_user_attr(key, value)


def _directions(sweep: SweepConfig) -> list[Any]:
    from optuna.study import StudyDirection

    return [StudyDirection[objective.direction.upper()] for objective in sweep.objectives]


def _name_metrics(study: optuna.Study, sweep: SweepConfig) -> None:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.metric for objective in sweep.objectives])


def _trials_of(sweep: SweepConfig) -> int:
    return len(grid_points(sweep)) if sweep.trials is None else sweep.trials


def _no_such_study(storage: BaseStorage, text: str, name: str) -> str:
    import optuna

    names = optuna.get_all_study_names(storage)
    if not names:
        return f"the storage {shown(text)} has no study: make one with `rsgrpo sweep create`"
    return f"{unknown('study', name, names)} (in {shown(text)})"
