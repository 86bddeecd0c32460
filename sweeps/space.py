"""The space of a sweep: its file read, its points listed or suggested, and laid into the config.

A point maps dotted config keys to values. A key that exists only under others (`when`) follows them
in every point.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from rsgrpo.config import Config
from rsgrpo.config_faults import fault_sentence
from rsgrpo.config_files import Layer, merged, read_layers
from rsgrpo.config_training import SCHEDULE_KEYS
from rsgrpo.errors import UserError
from sweeps.config import Parameter, SweepConfig, alternatives

if TYPE_CHECKING:
    import optuna

Point = dict[str, Any]

MOST_POINTS = 100_000
_TOO_MANY = (
    f"the grid of sweep.space has more than {MOST_POINTS} points: give fewer values, or choose "
    "another sweep.sampler.name"
)

_SCHEDULE = "training.risk_beta"
_SCALAR = (str, int, float, bool, type(None))


class Sweep(NamedTuple):
    """A study's settings, and what of them the sweep varies."""

    config: Config
    sweep: SweepConfig


class _SweepFile(Config):
    sweep: SweepConfig


def load_sweep(paths: Path | Sequence[Path], overrides: Sequence[str] = ()) -> Sweep:
    """Read YAML files that describe a study and, under `sweep`, what varies; apply overrides.

    Args:
        paths: One YAML file or several, of which later ones win, branch by branch.
        overrides: `dotted.key=value` strings such as `sweep.trials=20`.

    Raises:
        UserError: As in `load_config`, or no file has a branch `sweep`.
    """
    layers = read_layers([paths] if isinstance(paths, Path) else paths, overrides)
    tree = merged(layers)
    if "sweep" not in tree:
        files = ", ".join(dict.fromkeys(layer.origin for layer in layers)) or "no file"
        raise UserError(
            f"{files} has no branch sweep: say there what varies (sweep.space) and what is sought "
            "(sweep.objectives); configs/beta_sweep.yaml is an example"
        )
    try:
        whole = _SweepFile.model_validate(tree)
    except ValidationError as fault:
        raise UserError(fault_sentence(fault, _SweepFile, layers)) from None
    del tree["sweep"]
    return Sweep(Config.model_validate(tree), whole.sweep)


def grid_points(sweep: SweepConfig) -> list[Point]:
    """Return every point of a grid once, the last keys varying fastest.

    Raises:
        UserError: A range has no step, or the conditions go in a circle.
    """
    return _product(ordered(sweep.space), _grid_values)


def refuse_beyond_grid(sweep: SweepConfig, trials: int) -> None:
    """Refuse more trials than a grid has points.

    Raises:
        UserError: They are more, or as in `grid_points`.
    """
    if sweep.sampler.name != "grid":
        return
    points = len(grid_points(sweep))
    if trials > points:
        raise UserError(
            f"{trials} trials are asked for and the grid has {points} points: ask for at most that "
            "many, or choose another sweep.sampler.name in a new study"
        )


def suggest(trial: optuna.Trial, sweep: SweepConfig) -> Point:
    """Return the point of a trial, asking Optuna for what it does not have yet.

    Conditions come first; a value that is no scalar is a category of JSON text there.

    Raises:
        UserError: The conditions go in a circle.
    """
    point: Point = {}
    for key, parameter in ordered(sweep.space).items():
        if parameter.exists(point):
            point[key] = _decoded(_suggested(trial, key, parameter), parameter)
    return point


def encoded(point: Mapping[str, Any]) -> Point:
    """Return a point as Optuna stores it (for `enqueue_trial`): what is no scalar as JSON text."""
    return {key: _encoded(value) for key, value in point.items()}


def decoded(params: Mapping[str, Any], sweep: SweepConfig) -> Point:
    """Return the point that the stored parameters of a trial stand for."""
    return {key: _decoded(value, sweep.space.get(key)) for key, value in params.items()}


def trial_config(config: Config, params: Mapping[str, Any], seed: int) -> Config:
    """Return the config of one seed of a trial.

    A key below `training.risk_beta` makes it a schedule; of a schedule that the config names, those
    keys stay that the chosen kind takes.

    Args:
        config: The study's.
        params: The point, decoded.
        seed: Of the training.

    Raises:
        UserError: The config refuses the point.
    """
    tree = config.model_dump(mode="json")
    layers = [Layer("sweep.space", _nested(params), 1)]
    for key, value in {**params, "training.seed": seed}.items():
        _lay(tree, key, value)
    _settle_schedule(tree["training"], params)
    try:
        return Config.model_validate(tree)
    except ValidationError as fault:
        raise UserError(fault_sentence(fault, Config, layers)) from None


def ordered(space: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return a space with each key after those of its `when`, otherwise in its own order.

    Raises:
        UserError: A condition names a key that does not vary, or conditions go in a circle.
    """
    found: dict[str, Parameter] = {}
    while len(found) < len(space):
        ready = [k for k, p in space.items() if k not in found and p.when.keys() <= found.keys()]
        if not ready:
            raise UserError(_stuck(space, found))
        found[ready[0]] = space[ready[0]]
    return found


def _stuck(space: Mapping[str, Parameter], found: Mapping[str, Parameter]) -> str:
    left = [key for key in space if key not in found]
    for key in left:
        for other in space[key].when:
            if other not in space:
                where = f"config key sweep.space.{key}.when"
                return f"{where} names {other}, which does not vary: add it to sweep.space"
    return f"the conditions of sweep.space go in a circle: {', '.join(left)} wait for each other"


def _product(
    space: Mapping[str, Parameter], values_of: Callable[[str, Parameter], Sequence[Any]]
) -> list[Point]:
    points: list[Point] = [{}]
    for key, parameter in space.items():
        values = values_of(key, parameter)
        points = [grown for point in points for grown in _grown(point, key, parameter, values)]
        if len(points) > MOST_POINTS:
            raise UserError(_TOO_MANY)
    return points


def _grown(point: Point, key: str, parameter: Parameter, values: Sequence[Any]) -> list[Point]:
    return [{**point, key: value} for value in values] if parameter.exists(point) else [point]


def _grid_values(key: str, parameter: Parameter) -> Sequence[Any]:
    if not parameter.size:
        raise UserError(
            f"config key sweep.space.{key} is a range from {parameter.low} to {parameter.high}: a "
            "grid needs its step, or values; or choose another sweep.sampler.name"
        )
    if parameter.size > MOST_POINTS:
        raise UserError(_TOO_MANY)
    return parameter.points


def _suggested(trial: optuna.Trial, key: str, parameter: Parameter) -> Any:
    """Return the value of a key as Optuna stores it."""
    if parameter.values:
        return trial.suggest_categorical(key, [_encoded(value) for value in parameter.values])
    low, high = parameter.ends
    if parameter.integers:
        step = int(parameter.step or 1)
        return trial.suggest_int(key, int(low), int(high), step=step, log=parameter.log)
    return trial.suggest_float(key, low, high, step=parameter.step, log=parameter.log)


def _encoded(value: Any) -> Any:
    return value if isinstance(value, _SCALAR) else json.dumps(value)


def _decoded(value: Any, parameter: Parameter | None) -> Any:
    if parameter is None:
        return value
    if parameter.step is not None:
        return parameter.nearest(value)
    return next((v for v in parameter.values if _encoded(v) == value), value)


def _lay(tree: Point, key: str, value: Any) -> None:
    *branches, leaf = key.split(".")
    for name in branches:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[leaf] = value


def _nested(params: Mapping[str, Any]) -> Point:
    tree: Point = {}
    for key, value in params.items():
        _lay(tree, key, value)
    return tree


def _settle_schedule(training: Point, params: Mapping[str, Any]) -> None:
    """Drop what another kind of schedule in the config would leave beside the chosen one."""
    varied = [key for key in params if key.startswith(f"{_SCHEDULE}.")]
    if not varied:
        return
    schedule = training["risk_beta"]
    if "schedule" not in schedule:
        raise UserError(
            f"sweep.space varies {varied[0]}, but {_SCHEDULE} is a number: vary {_SCHEDULE}."
            "schedule too, or write a schedule under it"
        )
    takes = SCHEDULE_KEYS.get(schedule["schedule"], ())
    for key in set(schedule) - {"schedule", *takes}:
        if f"{_SCHEDULE}.{key}" not in params:
            del schedule[key]


# What decides how trials are measured, or who they are: varied, no two could be compared.
SHARED = (
    "name",
    "study",
    "evaluation",
    "grading",
    "serving",
    "plan",
    "data.source",
    "data.seed",
    "data.prompts_per_tier",
    "data.benchmarks",
    "data.limit",
    "sampling.backend",
    "sampling.split",
    "sampling.n",
    "sampling.n_of",
    "sampling.benchmarks",
    "sampling.limit",
    "sampling.seed",
)
_OF_THE_BASE = ("policy", "prompt", "sampling")
_MOST_TRIED = 1_000


def check_space(sweep: Sweep) -> None:
    """Refuse a sweep that cannot run, before anything does.

    Every point of a small grid is tried on the config; of a larger space, a thousand points of
    values and of ends and middles of ranges.

    Raises:
        UserError: A key is unknown, decides what trials are measured by, or is part of another; a
            condition never holds; a grid has a range without a step, or fewer points than there
            shall be trials; the config refuses a point; or a varied risk parameter means nothing to
            the estimator.
    """
    space = ordered(sweep.sweep.space)
    for key in space:
        _refuse_key(key, sweep.sweep)
    for key, parameter in space.items():
        for other, wanted in parameter.when.items():
            _refuse_condition(key, other, space[other], wanted)
    refuse_beyond_grid(sweep.sweep, sweep.sweep.trials or 0)
    for point in _tried(space):
        _refuse_point(sweep, point)


def _refuse_key(key: str, sweep: SweepConfig) -> None:
    where = f"config key sweep.space.{key}"
    if _meets(key, "training.seed"):
        raise UserError(f"{where} cannot vary: sweep.seeds lists the seeds that every trial has")
    if shared := next((name for name in SHARED if _meets(key, name)), None):
        raise UserError(
            f"{where} cannot vary: {shared} decides what trials are measured by, so set it for "
            "all of them"
        )
    if part := next((name for name in sweep.space if name != key and _meets(key, name)), None):
        raise UserError(f"{where} overlaps with {part}, which varies too: remove one of them")
    if key.split(".")[0] in _OF_THE_BASE and any(c.needs_base for c in sweep.constraints):
        raise UserError(
            f"{where} changes the base policy's own result, and a constraint compares with it: "
            "give that constraint a number, or do not vary the key"
        )


def _meets(key: str, other: str) -> bool:
    """Return whether one of two keys is the other or lies below it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _refuse_condition(key: str, other: str, parameter: Parameter, wanted: Any) -> None:
    where = f"config key sweep.space.{key}.when"
    if not parameter.size:
        raise UserError(
            f"{where} names {other}, a range without a step: a condition needs one that has values"
        )
    for value in alternatives(wanted):
        if value not in parameter.points:
            known = ", ".join(str(point) for point in parameter.points[:10])
            raise UserError(f"{where} names {other} = {value!r}, which it never is: it has {known}")


def _tried(space: Mapping[str, Parameter]) -> Iterator[Point]:
    options = {key: _options(parameter) for key, parameter in space.items()}
    if math.prod(map(len, options.values())) <= _MOST_TRIED:
        yield from _product(space, lambda key, _: options[key])
        return
    draw = random.Random(0)
    for _ in range(_MOST_TRIED):
        yield from _product(space, lambda key, _: [draw.choice(options[key])])


def _options(parameter: Parameter) -> Sequence[Any]:
    """Return what is tried of a key: its points, or both ends of a range and what lies between."""
    if parameter.values or 0 < parameter.size <= _MOST_TRIED:
        return parameter.points
    low, high = parameter.ends
    inside = low + (high - low) / math.e
    return sorted({low, int(inside) if parameter.integers else inside, high})


def _refuse_point(sweep: Sweep, point: Point) -> None:
    at = ", ".join(f"{key} = {value}" for key, value in point.items())
    try:
        training = trial_config(sweep.config, point, sweep.sweep.seeds[0]).training
    except UserError as fault:
        raise UserError(f"{fault}, at {at}") from None
    varied = next((key for key in point if _meets(key, _SCHEDULE)), None)
    if varied and training.advantage.name != "rs_grpo":
        raise UserError(
            f"config key sweep.space.{varied} varies although {training.advantage.name} has no "
            "risk parameter, so trials would repeat each other: add "
            "when: {training.advantage.name: rs_grpo}"
        )
    k = sweep.sweep.pruner.k
    if k is not None and k > training.num_generations:
        raise UserError(
            f"sweep.pruner.k is {k}, but training.num_generations is {training.num_generations}, "
            f"at {at}: lower k, for pass@k of more than one group's samples cannot be told"
        )
