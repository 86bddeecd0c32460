"""Every flow is what it says: loaded whole, named after no package, deployed from prefect.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsgrpo.config import Config, load_config
from rsgrpo.worker import Execution

CHECKOUT = Path(__file__).parents[2]
DEPLOYED = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
NAMES = {
    "prepare-data",
    "train-policy",
    "evaluate-policy",
    "run-trial",
    "analyse-runs",
    "pipeline",
    "beta-sweep",
}


def test_every_flow_is_deployed_under_its_own_name() -> None:
    assert {deployment["name"] for deployment in DEPLOYED} == NAMES
    for deployment in DEPLOYED:
        assert deployment["work_pool"]["job_variables"] == {"stream_output": False}


@pytest.mark.parametrize("deployment", DEPLOYED, ids=lambda d: d["name"])
def test_every_flow_loads_without_a_placeholder(deployment: dict[str, str]) -> None:
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == deployment["name"]
    assert flow.result_serializer == "json"
    flow.validate_parameters({"config": Config().model_dump(mode="json")})
    execution = flow.parameters.definitions["Execution"]["properties"]  # what the UI's form shows
    assert set(execution) == set(Execution.model_fields)


def test_prefect_caches_nothing() -> None:
    from prefect.cache_policies import NO_CACHE

    from flows.run_stages import run_stage
    from flows.units import take_unit

    for task in (run_stage, take_unit):
        assert task.cache_policy == NO_CACHE
        assert task.persist_result is False


def test_no_flow_bears_the_name_of_an_importable_package() -> None:
    names = [file.stem for file in (CHECKOUT / "flows").glob("*.py") if file.stem != "__init__"]
    code = (
        "import importlib.util, json, sys\n"
        f"names = {names!r}\n"
        "print(json.dumps([name for name in names if importlib.util.find_spec(name)]))"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_an_execution_takes_no_paths_and_no_code() -> None:
    fields = {name: field.annotation for name, field in Execution.model_fields.items()}
    assert Path not in fields.values()
    assert set(fields) == {"root", "environment", "launcher", "units", "at_once"}


def test_the_units_of_a_study_are_its_runs() -> None:
    from flows.units import base_unit, trained_units

    config = load_config(None, ["study.risk_betas=[0,4]", "study.seeds=[0,1]"])
    assert base_unit(config).policy == "base"
    assert [unit.name for unit in trained_units(config)] == [
        "grpo-seed0",
        "grpo-seed1",
        "rs_grpo-beta0-seed0",
        "rs_grpo-beta0-seed1",
        "rs_grpo-beta4-seed0",
        "rs_grpo-beta4-seed1",
    ]
    assert [unit.config.training.seed for unit in trained_units(config)] == [0, 1] * 3
