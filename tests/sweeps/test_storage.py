"""Storages: opened by several at once, mended, waited for, refused without their password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from rsgrpo.errors import UserError
from sweeps.storage import open_storage, persist, shown
from sweeps.study import create, load
from tests.sweeps.empty_trials import plan, run, states


def test_the_user_is_told_once_that_the_storage_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.storage.time.sleep", lambda seconds: None)
    said: list[str] = []
    answers = iter(["away"] * 20 + ["here"])

    def operation() -> str:
        if next(answers) == "away":
            raise optuna.exceptions.StorageInternalError("postgresql://me:secret@host/d is gone")
        return "done"

    assert persist(operation, said.append, lambda: True) == "done"
    assert len(said) == 2 and "secret" not in said[0] and said[1] == "the storage is back"


def test_a_torn_line_of_a_journal_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "o.log"
    opened = create(plan(2), str(path), "s", tmp_path)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    run(load(str(path), "s"))
    assert states(load(str(path), "s")) == ["COMPLETE"] * 2
    assert opened.name == "s"


def test_storages_are_refused_in_one_sentence_without_the_password() -> None:
    with pytest.raises(UserError, match="unknown: give one of"):
        open_storage("redis://host")
    with pytest.raises(UserError) as refusal:
        open_storage("postgresql://me:secret@127.0.0.1:9/none")
    assert "secret" not in str(refusal.value) and "me:***@127.0.0.1:9" in str(refusal.value)
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert shown("postgresql://me:sec/ret@host/d") == "postgresql://me:***@host/d"
    assert (
        shown("postgresql://host/d?user=me&password=s")
        == "postgresql://host/d?user=me&password=***"
    )
    with pytest.raises(UserError, match=r"is no address: write .*HOST:PORT") as refusal:
        open_storage("postgresql://me:sec/ret@host:port/d")
    assert "sec/ret" not in str(refusal.value)
    with pytest.raises(UserError, match="unknown: give one of"):
        open_storage("sqlite:///")


OPEN = """
import sys, time
import optuna, sqlalchemy
from sweeps.storage import open_storage
print("ready", flush=True)
sys.stdin.readline()
open_storage(sys.argv[1])
print("opened", flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_may_open_a_new_storage_at_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new = f"sqlite:///{tmp_path / 'o.db'}"
    storage = new if kind == "sqlite" else request.getfixturevalue("postgresql_url")
    command = [sys.executable, "-c", OPEN, storage]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) for process in processes] == [("opened\n", "")] * 3


def test_postgresql_frees_what_a_client_that_is_cut_off_had_locked(postgresql_url: str) -> None:
    opened: Any = open_storage(postgresql_url)
    with opened._backend.engine.connect() as connection:
        shown_as = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
    assert shown_as == "1min"
