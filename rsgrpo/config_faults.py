"""What is wrong with a config, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rsgrpo.config_files import Layer, source_of
from rsgrpo.errors import unknown


def fault_sentence(fault: ValidationError, tree: type[BaseModel], layers: Sequence[Layer]) -> str:
    """Return the sentence for the first fault of a config.

    Args:
        fault: What pydantic met.
        tree: The model that was validated.
        layers: What its values were read from.
    """
    error = max(fault.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    where = _without_union_tags(error["loc"])
    key, source = ".".join(where), source_of(where, layers)
    if error["type"] == "extra_forbidden":
        return f"{unknown('config key', key, _siblings(tree, where))}{source}"
    message = error["msg"].removeprefix("Value error, ")
    met = "" if isinstance(error["input"], dict | BaseModel) else f", got {error['input']!r}"
    return f"config key {key}{source}: {message}{met}" if key else f"config{source}: {message}"


def _without_union_tags(loc: tuple[int | str, ...]) -> list[str]:
    """Drop the branch of a union that pydantic names: after `risk_beta`, or a kind of number."""
    named = loc[:-1] if loc[-1:] in (("int",), ("float",)) else loc
    return [str(p) for i, p in enumerate(named) if i == 0 or named[i - 1] != "risk_beta"]


def _siblings(tree: type[BaseModel], where: Sequence[str]) -> list[str]:
    model = tree
    for name in where[:-1]:
        if name not in model.model_fields:
            continue  # an item of a list, or of a mapping with names of its own
        models = list(_models_in(model.model_fields[name].annotation))
        if not models:
            return []
        model = models[0]
    return [".".join([*where[:-1], name]) for name in model.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
