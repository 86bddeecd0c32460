"""Reading configs from YAML: files laid over each other, then single keys, each with its origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rsgrpo.data.catalogue import could_be_a_name
from rsgrpo.errors import UserError

_EVERY = 1_000


class Layer(NamedTuple):
    """A tree of settings and where it comes from: a file, or `--set` on the command line.

    Its first `depth` levels are merged with what lies below it, what is deeper replaces it.
    """

    origin: str
    tree: dict[str, Any]
    depth: int


def read_layers(paths: Iterable[Path], overrides: Iterable[str]) -> list[Layer]:
    """Return the trees of YAML files and of `dotted.key=value` strings; later ones win.

    Raises:
        UserError: A file is missing or no YAML mapping, or an override cannot be read.
    """
    layers = [
        Layer(str(path), _anchored(_read_yaml(path), path.parent.absolute()), _EVERY)
        for path in paths
    ]
    for override in overrides:
        layers.append(_read_override(override, merged(layers)))
    return layers


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return one tree in which the values of later layers stand."""
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = _over(tree, layer.tree, layer.depth)
    return tree


def source_of(where: Sequence[str], layers: Sequence[Layer]) -> str:
    """Return ` in FILE` for the origin of a key; of a branch, every origin that has a part in it.

    Args:
        where: The key's parts; none of them for the whole tree.
        layers: What the tree was made of.
    """
    found = [(layer.origin, _at(layer.tree, where)) for layer in layers]
    holding = [(origin, value) for origin, value in found if value is not None]
    if holding and not isinstance(holding[-1][1], dict):
        holding = holding[-1:]
    origins = dict.fromkeys(origin for origin, _ in holding)
    return f" in {', '.join(origins)}" if origins else ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist: check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        detail = " ".join(str(fault).split())
        raise UserError(f"config file {path} is not valid YAML: {detail}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config file {path} holds a {type(tree).__name__}, not a mapping of keys")
    return tree


def _anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the paths of a file relative to its folder; a checkpoint only where it lies there."""
    data, policy, study = tree.get("data"), tree.get("policy"), tree.get("study")
    if isinstance(data, dict):
        if isinstance(data.get("train"), str):
            data["train"] = _place(data["train"], folder)
        benchmarks = data.get("benchmarks")
        if isinstance(benchmarks, dict):
            data["benchmarks"] = {n: _place(str(file), folder) for n, file in benchmarks.items()}
        elif isinstance(benchmarks, list):
            data["benchmarks"] = [_place(str(file), folder) for file in benchmarks]
    if isinstance(policy, dict) and isinstance(policy.get("checkpoint"), str):
        beside = folder / policy["checkpoint"]
        policy["checkpoint"] = str(beside) if beside.exists() else policy["checkpoint"]
    if isinstance(study, dict) and isinstance(study.get("rollouts"), dict):
        study["rollouts"] = {n: str(folder / str(file)) for n, file in study["rollouts"].items()}
    return tree


def _place(text: str, folder: Path) -> str:
    """Return the path of a file, or the name of a set of the catalogue as it stands."""
    return text if could_be_a_name(text) else str(folder / text)


def _read_override(override: str, below: dict[str, Any]) -> Layer:
    """Return the layer of one override; `below` is what it is laid over."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r} has no value: write --set training.risk_beta=4")
    names = _names(key, below)
    for last, name in enumerate(names[:-1], 1):
        if not isinstance(_at(below, names[:last]), dict | None):
            raise UserError(f"--set {override!r}: {name} is a value, not a branch of the config")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is not a valid value") from None
    for name in reversed(names):
        value = {name: value}
    return Layer("--set", value, len(names))


def _names(key: str, below: Any) -> list[str]:
    """Split a key at its dots, but for those of a name that is there: `sweep.space` has such."""
    names = key.split(".")
    here = below if isinstance(below, dict) else {}
    last = next((n for n in range(len(names), 1, -1) if ".".join(names[:n]) in here), 1)
    name, deeper = ".".join(names[:last]), names[last:]
    return [name, *(_names(".".join(deeper), here.get(name)) if deeper else ())]


def _over(below: dict[str, Any], above: dict[str, Any], depth: int) -> dict[str, Any]:
    tree = dict(below)
    for key, value in above.items():
        old = tree.get(key)
        if depth > 1 and isinstance(old, dict) and isinstance(value, dict):
            value = _over(old, value, depth - 1)
        tree[key] = value
    return tree


def _at(tree: Any, where: Sequence[str]) -> Any:
    """Return what stands at a key, or above it where that is a value or a list; else None."""
    for name in where:
        if not isinstance(tree, dict):
            break
        tree = tree.get(name)
    return tree
