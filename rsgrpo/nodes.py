"""Nodes: what a stage is run with, and the same as JSON for another process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

from rsgrpo.config import Config

Input = Union["Node", Path, str, dict[str, "Node | Path"]]


class Node(NamedTuple):
    """One stage to run: its config, its inputs (other nodes, paths, hub ids) and plain extras."""

    stage: str
    name: str
    config: Config
    inputs: Mapping[str, Input] = {}
    extras: Mapping[str, Any] = {}


def upstream_nodes(node: Node) -> Iterator[Node]:
    """Yield the nodes that a node takes its inputs from."""
    for value in node.inputs.values():
        if isinstance(value, Node):
            yield value
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, Node))


def node_to_json(node: Node) -> str:
    """Return a node as JSON, for another process."""
    return json.dumps(_plain(node))


def node_from_json(text: str) -> Node:
    """Read a node written by `node_to_json`."""
    node: Node = _node(json.loads(text))
    return node


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        fields = {**value._asdict(), "config": value.config.model_dump(mode="json")}
        fields["inputs"] = {name: _plain(item) for name, item in value.inputs.items()}
        return {"node": fields}
    if isinstance(value, dict):
        return {"nodes": {name: _plain(item) for name, item in value.items()}}
    return {"path": str(value)} if isinstance(value, Path) else {"text": value}


def _node(tree: Any) -> Any:
    (kind, value), *_ = tree.items()
    if kind == "nodes":
        return {name: _node(item) for name, item in value.items()}
    if kind == "node":
        value["config"] = Config.model_validate(value["config"])
        value["inputs"] = {name: _node(item) for name, item in value["inputs"].items()}
        return Node(**value)
    return Path(value) if kind == "path" else value
