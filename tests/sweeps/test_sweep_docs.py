"""docs/sweeps.md: its example runs, and its table has every key with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from rsgrpo.config_training import SCHEDULE_KEYS
from sweeps.config import Constraint, Objective, Parameter, SweepConfig
from sweeps.metrics import check_metrics
from sweeps.space import SHARED, check_space, load_sweep

DOCS = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
ITEMS = {"space": ("space.KEY", Parameter), "objectives": ("objectives", Objective)}
ITEMS["constraints"] = ("constraints", Constraint)


def keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every dotted key of a branch with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.default, BaseModel):
            found |= keys(type(field.default), f"{key}.")
            continue
        found[key] = field.default
        if name in ITEMS and not prefix:
            below, item = ITEMS[name]
            found |= keys(item, f"{below}.")
    return found


def rows(title: str) -> dict[str, str]:
    """Return the second cell of each row of the table below a title, by the names in its first."""
    section = DOCS.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| `"]
    return {key: cells[1] for cells in lines for key in re.findall("`([^`]+)`", cells[0])}


def test_the_example_can_run(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", DOCS, re.S)
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
    sweep = load_sweep(tmp_path / "sweep.yaml")
    check_space(sweep)
    check_metrics(sweep.sweep, sweep.config)


def test_the_table_has_every_key_of_a_sweep() -> None:
    assert rows("Every key of `sweep`").keys() == keys(SweepConfig).keys()


@pytest.mark.parametrize("key", [k for k, v in keys(SweepConfig).items() if type(v) in (int, str)])
def test_defaults_in_the_table_are_those_of_the_code(key: str) -> None:
    assert rows("Every key of `sweep`")[key].strip() == str(keys(SweepConfig)[key])


def test_every_schedule_is_documented_with_its_keys() -> None:
    shown = rows("The space")
    assert {
        kind: tuple(re.findall(r"`(\w+)`", cell)) for kind, cell in shown.items()
    } == SCHEDULE_KEYS


def test_every_sampler_and_pruner_is_named() -> None:
    for branch in ("sampler", "pruner"):
        model = type(SweepConfig.model_fields[branch].default)
        for name in get_args(model.model_fields["name"].annotation):
            assert f"`{name}`" in DOCS or name == "none"


def test_every_key_that_cannot_vary_is_named() -> None:
    section = DOCS.partition("## The space")[2].partition("Conditions may")[0]
    for key in SHARED:
        branch, _, name = key.partition(".")
        assert f"`{key}`" in section or (f"`{branch}." in section and f"`.{name}`" in section)
