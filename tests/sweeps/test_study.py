"""A study: one root and one set of settings, made longer, its failed trials queued anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from rsgrpo.errors import UserError
from sweeps import run as run_module
from sweeps.claims import claim
from sweeps.provenance import Provenance
from sweeps.study import create, extend, load, retry_failed
from tests.sweeps.empty_trials import EmptyRunner, plan, run, states

MADE_WITH = Provenance("0123abc", False, "environment")


@pytest.fixture(autouse=True)
def known_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "provenance", lambda *_: MADE_WITH)


def test_failed_trials_are_tried_again_once_each(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(3, "grid"), storage, "s", tmp_path)
    run(opened, EmptyRunner(tmp_path / "units", [("failed", "bad weather")]))
    assert states(opened) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert retry_failed(opened) == [0]
    assert retry_failed(opened) == []
    assert run(opened).ending == "complete"
    again = opened.study.trials[3]
    assert (again.state, again.user_attrs["retry_of"]) == (TrialState.COMPLETE, 0)
    assert again.params == opened.study.trials[0].params
    assert len(opened.study.trials) == 4


def test_a_sweep_is_made_longer(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    opened = create(plan(2), storage, "s", tmp_path)
    run(opened)
    assert extend(opened, 3) == 5
    run(load(storage, "s"))
    assert states(opened) == ["COMPLETE"] * 5
    grid = create(plan(None, "grid"), storage, "g", tmp_path)
    with pytest.raises(UserError, match="1201 trials are asked for and the grid has 1200 points"):
        extend(grid, 1)


def test_a_name_belongs_to_one_sweep(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    create(plan(2), storage, "s", tmp_path)
    create(plan(2), storage, "s", tmp_path)
    with pytest.raises(UserError, match="is there with other settings"):
        create(plan(2, seeds=[5]), storage, "s", tmp_path)
    with pytest.raises(UserError, match="did you mean s"):
        load(storage, "st")


def test_a_study_has_one_root(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    create(plan(1), storage, "s", tmp_path / "one")
    for again in (
        lambda root: create(plan(1), storage, "s", root),
        lambda r: load(storage, "s", r),
    ):
        with pytest.raises(UserError, match=r"has its results and its ledger in .*/one"):
            again(tmp_path / "two")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert load(storage, "s", tmp_path / "moved").root == tmp_path / "moved"


@pytest.mark.parametrize("call", ["get_trial", "set_trial_state_values"])
def test_a_claim_that_fails_half_way_gives_its_lease_back(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = create(plan(1), f"sqlite:///{tmp_path / 'o.db'}", "s", tmp_path)
    opened.study.ask()  # running, and nobody holds it

    def refuse(*arguments: Any) -> Any:
        raise UserError("the config refuses it")

    def gone(*arguments: Any, **named: Any) -> Any:
        raise optuna.exceptions.StorageInternalError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.claims.trial_config", refuse)
        patch.setattr(optuna.storages._CachedStorage, call, gone)
        with pytest.raises(optuna.exceptions.StorageInternalError):
            claim(opened, MADE_WITH)
    assert opened.ledger.held() == []
    assert run(opened).ending == "complete"
    assert states(opened) == ["COMPLETE"]
