"""Rewards of one's own: functions that an installed distribution registers under a name.

    [project.entry-points."rsgrpo.rewards"]
    brief = "my_rewards:brief"

A config names a reward and never a path or code. Without torch: a study's plan asks here which
version of a reward its training depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rsgrpo.config_training import DEFAULT_REWARD
from rsgrpo.errors import UserError, unknown

GROUP = "rsgrpo.rewards"
# What TRL hands to a reward beside the problem's own columns.
_NOT_COLUMNS = {
    "prompts",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "prompt",
    "prompt_index",
}

Reward = Callable[..., list[float]]


def named_reward(name: str, version: str | None) -> Reward:
    """Return a registered function as a TRL reward.

    The function is called with texts, `(completions, problem, answer, **columns)`, and returns a
    finite number for each completion.

    Args:
        name: The name that it is registered under.
        version: What `reward_version` said where the study was planned; None for any.

    Raises:
        UserError: It is not installed, or in another version than where the study was planned; when
            called, it returns something else than a number for each completion.
    """
    entry = _find(name)
    if version not in (here := _version(entry), None):
        raise UserError(
            f"reward {name!r} is {here} in this environment and {version} where the study was "
            "planned: install the same one in both"
        )
    function = entry.load()

    def reward(
        completions: list[Any], problem: list[str], answer: list[str], **more: Any
    ) -> list[float]:
        columns = {key: value for key, value in more.items() if key not in _NOT_COLUMNS}
        texts = [completion_text(completion) for completion in completions]
        values = function(completions=texts, problem=problem, answer=answer, **columns)
        return _checked(name, values, len(texts))

    reward.__name__ = name
    return reward


def reward_version(name: str) -> str | None:
    """Return what a run with this reward depends on: distribution, version and sources.

    None for the default reward, which is part of this package.

    Raises:
        UserError: No installed distribution registers the name.
    """
    return None if name == DEFAULT_REWARD else _version(_find(name))


def completion_text(completion: Any) -> str:
    """Return a completion as text: the last message of a conversation, or the text itself."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _find(name: str) -> EntryPoint:
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise UserError(
            f"config key training.reward: {unknown('reward', name, [DEFAULT_REWARD, *installed])}"
            f" (a reward is registered by an installed package, as an entry point of {GROUP})"
        )
    return installed[name]


def _version(entry: EntryPoint) -> str:
    distribution = entry.dist
    package = f"{distribution.name} {distribution.version}" if distribution else "no distribution"
    return f"{package} ({_digest_of_sources(entry.module)})"


def _digest_of_sources(module: str) -> str:
    """Return the digest of all sources of a module's top package, without importing any."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        return "no source"
    top = Path(spec.origin)
    sources = sorted(top.parent.rglob("*.py")) if top.name == "__init__.py" else [top]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(top.parent)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def _checked(name: str, values: Any, count: int) -> list[float]:
    rule = "it must return one finite number for each completion"
    if not isinstance(values, Sequence) and not hasattr(values, "tolist"):
        raise UserError(f"reward {name!r} returned a {type(values).__name__}: {rule}")
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(found) != count:
        raise UserError(f"reward {name!r} returned {len(found)} values for {count}: {rule}")
    for value in found:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"reward {name!r} returned {value!r}: {rule}")
    return [float(value) for value in found]
