"""`rsgrpo sweep` from the outside: what it prints, refuses, writes; the optuna CLI beside it."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from rsgrpo.errors import UserError
from sweeps.commands import app
from sweeps.ledger import Ledger
from sweeps.study import Opened
from tests.sweeps.made_studies import (
    answers,
    complete,
    failed,
    made,
    pruned,
    sweep_file,
)

GOOD = answers("cccc cccc cccx cccc cccc", "cccc cccc cxcc cccc cccc")
POOR = answers("xxxx xxxc xxxx xxxx xxxx", "xxxx xxxx xxxx xcxx xxxx")
HOSTILE = "\x1b[2J\x1b]0;title\x07 [bold]red[/bold] \n=cmd()"
HERE = Path(__file__).parents[2]
# The verbs as the command line has them, whether or not the entry point is installed yet.
REAL = "from rsgrpo import cli; from sweeps.commands import app; cli.app.add_typer(app); cli.main()"


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A study of two complete trials, one that failed and one that was pruned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSGRPO_STORAGE", raising=False)
    (tmp_path / "worker.yaml").write_text("roots: {default: root}")
    opened = made(tmp_path)
    logged = {0: {"training/entropy": 1.5}, 1: {"training/entropy": 2.5}}
    complete(opened, {"training.risk_beta": 0.0}, {0: POOR, 1: POOR}, further=logged)
    complete(opened, {"training.risk_beta": 2.0}, {0: GOOD, 1: GOOD}, further=logged)
    failed(opened, {"training.risk_beta": 4.0}, HOSTILE)
    pruned(opened, {"training.risk_beta": 8.0}, "seed 1: entropy 0.01 is below the floor")
    return opened


def _run(*words: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=input, catch_exceptions=False)


def _json(*words: str) -> Any:
    return json.loads(_run(*words, "-f", "json").stdout)


def _refused(*words: str) -> str:
    with pytest.raises(UserError) as fault:
        _run(*words)
    return str(fault.value)


def _real(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    repository = str(HERE)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {repository!r}); {REAL}"]
    return subprocess.run([*command, "sweep", *words], cwd=cwd, capture_output=True, text=True)


def test_trials_are_listed_in_each_format(opened: Opened) -> None:
    rows = _json("trials")
    assert [(row["number"], row["state"]) for row in rows] == [
        (0, "complete"), (1, "complete"), (2, "failed"), (3, "pruned")
    ]  # fmt: skip
    assert rows[1]["params"] == {"training.risk_beta": 2.0}
    assert rows[1]["values"] == {"pass_at_2": pytest.approx(0.9833, abs=0.02)}
    assert rows[1]["n_seeds"] == 2
    assert rows[1]["tokens"] == 1000
    assert rows[2]["end_reason"] == HOSTILE
    assert rows[2]["values"] == {"pass_at_2": None}
    assert yaml.safe_load(_run("trials", "-f", "yaml").stdout) == rows
    lines = _run("trials").stdout.splitlines()
    assert lines[0].split()[:4] == ["number", "state", "training.risk_beta", "pass_at_2"]
    assert len(lines) == 5


def test_hostile_text_is_printed_as_text(opened: Opened) -> None:
    for verb in ("trials", "status"):
        shown = _run(verb).stdout
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\\x1b[2J" in shown
        assert "[bold]red[/bold] \\n=cmd()" in shown


def test_trials_are_filtered_by_state(opened: Opened) -> None:
    assert [r["number"] for r in _json("trials", "--state", "failed", "--state", "pruned")] == [
        2,
        3,
    ]
    assert _json("trials", "--state", "waiting") == []
    assert _run("trials", "--state", "waiting", "-q").stdout == "(no rows)\n"
    assert "did you mean complete" in _refused("trials", "--state", "complet")


def test_quiet_leaves_results_alone(opened: Opened) -> None:
    assert _run("trials").stderr == "4 trials of study small\n"
    assert _run("trials", "-q").stderr == ""
    assert "metrics" in _json("trials", "-v")[0]


def test_status_counts_and_says_why_the_last_one_failed(opened: Opened) -> None:
    found = _json("status")
    assert (found["complete"], found["failed"], found["pruned"], found["target"]) == (2, 1, 1, 4)
    assert found["left"] == 0
    assert found["tokens"] == 2110
    assert found["last_failure"] == f"trial 2: {HOSTILE}"
    assert _run("status").stdout.splitlines()[-1] == "nothing is left to do"
    assert yaml.safe_load(_run("status", "-f", "yaml").stdout) == found


def test_best_says_who_can_be_told_apart(opened: Opened) -> None:
    found = _json("best")
    assert found["trials"] == [1]
    assert found["params"] == {"1": {"training.risk_beta": 2.0}}
    assert found["values"][0]["n_prompts"] == 10
    assert found["comparisons"][0]["apart"] is True
    shown = _run("best")
    assert shown.stdout.startswith("trial 1 is the best of 2: pass_at_2 ")
    assert "trial 0 is worse (Holm-corrected p below 0.05)\n" in shown.stdout
    assert "warning: a trial has 2 seeds" in shown.stderr


def test_importance_needs_four_complete_trials(opened: Opened) -> None:
    assert _refused("importance").startswith("2 trials are complete: importances need at least 4")
    for beta, given in ((0.0, POOR), (2.0, GOOD), (4.0, GOOD)):
        complete(opened, {"training.risk_beta": beta}, {0: given, 1: given})
    rows = _json("importance")
    assert [row["key"] for row in rows] == ["training.risk_beta"]
    assert rows[0]["importance"] == pytest.approx(1)
    assert rows[0]["n_trials"] == 5
    assert "from 5 complete trials" in _run("importance").stderr


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_importance_is_of_what_makes_trials_good(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.yaml").write_text("roots: {default: root}")
    beta, rate = "training.risk_beta", "training.learning_rate"
    space = {beta: {"values": [0, 2, 4, 8]}, rate: {"values": [1e-5, 1e-4, 1e-3, 1e-2]}}
    sought = {"metric": "training/entropy", "direction": direction}
    opened = made(tmp_path, space=space, seeds=[0], objectives=[sought])
    better = 1.0 if direction == "maximize" else -1.0
    for at, step in itertools.product([0, 2, 4, 8], space[rate]["values"]):
        # beta alone makes a trial the best; among the others the rate alone makes it the worst
        value = better * (9 if at == 8 else -9 if step == 1e-5 else 0)
        logged = {0: {"training/entropy": value}}
        complete(opened, {beta: at, rate: step}, {0: GOOD}, further=logged)
    first, second = _json("importance")
    assert (first["key"], second["key"]) == (beta, rate)
    assert first["importance"] > 0.9


def test_an_objective_that_never_changes_has_no_importances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.yaml").write_text("roots: {default: root}")
    opened = made(tmp_path)
    for beta in (0.0, 2.0, 4.0, 8.0):
        complete(opened, {"training.risk_beta": beta}, {0: GOOD, 1: GOOD})
    assert [row["importance"] for row in _json("importance")] == [None]
    assert "pass_at_2 is the same in all of them" in _run("importance").stderr


def test_export_has_every_seed_and_attribute_and_no_answers(opened: Opened, tmp_path: Path) -> None:
    for ending in ("csv", "json", "parquet"):
        assert _run("export", "-o", f"all.{ending}").exit_code == 0
    nested = json.loads((tmp_path / "all.json").read_text())
    assert nested[1]["metrics"]["1"]["training/entropy"] == 2.5
    assert nested[1]["attributes"]["scores"]["0"] == "score/trial1-seed0"
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["metrics.1.training/entropy"] == "2.5"
    assert rows[1]["params.training.risk_beta"] == "2.0"
    assert rows[2]["end_reason"] == HOSTILE
    assert rows[2]["metrics.0.auc"] == ""
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert table[1]["metrics.0.pass_at_2"] == nested[1]["metrics"]["0"]["pass_at_2"]
    assert table[2]["values.pass_at_2"] is None
    assert "cccc" not in (tmp_path / "all.json").read_text()
    assert "ends in none of .csv, .json, .parquet" in _refused("export", "-o", "all.xlsx")
    assert "the folder of no/all.parquet does not" in _refused("export", "-o", "no/all.parquet")


def test_an_unknown_study_is_told_with_the_nearest_name(opened: Opened) -> None:
    assert "unknown study 'smal': did you mean small?" in _refused("trials", "--study-name", "smal")


def test_several_studies_need_a_name(opened: Opened) -> None:
    _run("create", "sweep.yaml", "--study-name", "other", "-q")
    assert "has 2 studies (other, small): name one with --study-name" in _refused("status")
    assert _run("status", "--study-name", "other").exit_code == 0


@pytest.mark.parametrize(
    "words", [["trials"], ["status"], ["best"], ["importance"], ["stop"], ["delete", "--yes"]]
)
def test_looking_makes_no_storage(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("sqlite:///none.db", "journal:none.log"):
        sentence = _refused(*words, "--storage", place)
        assert sentence.startswith(f"there is no study in {place}: make one with")
    assert list(tmp_path.iterdir()) == []


def test_a_study_whose_root_is_elsewhere_is_not_said_to_rest(
    opened: Opened, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'moved.db'}"
    _run("create", "sweep.yaml", "--study-name", "other", "--storage", storage)
    opened.root.rename(tmp_path / "mounted")
    for verb in ("status", "stop", "trials"):
        refused = _refused(verb, "--storage", storage)
        assert refused.startswith(f"the results of study 'other' lie in {opened.root}, which is")
    assert not opened.root.exists()
    (tmp_path / "worker.yaml").write_text("roots: {default: root, here: mounted}")
    assert _run("status", "--storage", storage, "--root", "here").exit_code == 0


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    import sqlite3

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("create table runs (name text)")
    before = other.read_bytes()
    assert "there is no study in" in _refused("trials", "--storage", f"sqlite:///{other}")
    assert other.read_bytes() == before


@pytest.mark.parametrize("name", ["my sweep", "it's", "a/b", "..", ".hidden", "two\nlines", "a\n"])
def test_a_name_that_trials_could_not_have_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path)
    refused = _refused("create", "sweep.yaml", "--study-name", name, "--storage", "sqlite:///x.db")
    assert refused.startswith(f"study name {name!r} cannot be a folder's: use letters, digits")
    assert not (tmp_path / "x.db").exists()


def test_create_twice_is_one_study_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.yaml").write_text("roots: {default: root}")
    sweep_file(tmp_path)
    first = _run("create", "sweep.yaml")
    assert first.stdout == "small\n"
    assert first.stderr.startswith("it was made: 4 trials, storage sqlite:///")
    assert "is there already, with the same settings" in _run("create", "sweep.yaml").stderr
    refused = _refused("create", "sweep.yaml", "--set", "sampling.n=8")
    assert "study small is there with other settings (sampling.n is 4 there and 8 here)" in refused
    refused = _refused("create", "sweep.yaml", "--set", "sweep.retries=7")
    assert "(sweep.retries is 2 there and 7 here)" in refused
    assert _run("status").exit_code == 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sweep.objectives=[pass_at_64]", "pass_at_64 needs k = 64 among evaluation.ks"),
        ("sweep.space={training.rsk_beta: {values: [1]}}", "rsk_beta"),
        ("sweep.trials=9", "9 trials are asked for and the grid has 4 points"),
    ],
)
def test_create_refuses_what_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path)
    refused = _refused("create", "sweep.yaml", "--set", override, "--storage", "sqlite:///x.db")
    assert sentence in refused
    assert not (tmp_path / "x.db").exists()


def test_delete_asks_and_leaves_results(opened: Opened) -> None:
    assert _run("delete", input="n\n").exit_code == 1
    assert len(_json("trials")) == 4
    gone = _run("delete", input="y\n")
    assert "deleted study small with 4 trials" in gone.stdout
    assert f"stay in {opened.root}" in gone.stderr
    assert (opened.root / "score" / "trial1-seed0" / "prompts.parquet").exists()
    assert not opened.ledger.folder.exists()
    assert "there is no study in" in _refused("trials")


def test_delete_refuses_while_somebody_works(opened: Opened) -> None:
    lease = opened.ledger.take("trial-0")
    assert lease is not None
    assert "is being worked on (trial-0 on " in _refused("delete", "--yes")
    lease.release()
    assert _run("delete", "--yes").exit_code == 0


def test_stop_says_that_nobody_works(opened: Opened) -> None:
    assert _run("stop").stdout == "nobody works on study small: there is nothing to stop\n"
    assert opened.ledger.stop_asked() is None


def test_stop_waits_until_those_who_work_have_ended(opened: Opened) -> None:
    lease = opened.ledger.take("sweep-here-1")
    assert lease is not None

    def work() -> None:
        while Ledger(opened.ledger.folder).stop_asked() is None:
            time.sleep(0.05)
        lease.release()

    worker = threading.Thread(target=work)
    worker.start()
    stopped = _run("stop", "--reason", "lunch")
    worker.join()
    assert stopped.stdout.startswith("study small has stopped")
    assert opened.ledger.stop_asked() == "lunch"


def test_stop_says_who_is_still_at_work(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.commands.STOP_WAIT_SECONDS", 0.2)
    lease = opened.ledger.take("unit-0-0")
    assert lease is not None
    refused = _refused("stop")
    assert "still at work: unit-0-0 (" in refused
    assert "the request stands" in refused
    lease.release()


def test_the_real_command_line_prints_one_sentence(opened: Opened, tmp_path: Path) -> None:
    good = _real("trials", "-f", "json", "-q", cwd=tmp_path)
    assert len(json.loads(good.stdout)) == 4
    assert good.stderr == ""
    bad = _real("trials", "--study-name", "smal", cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("rsgrpo: unknown study 'smal': did you mean small?")
    assert len(bad.stderr.splitlines()) == 1


def test_the_verbs_import_nothing_heavy_before_one_runs() -> None:
    code = (
        "import sys; import sweeps.commands; "
        "print([n for n in ('numpy', 'optuna', 'pydantic', 'pyarrow') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE)
    assert found.stdout == "[]\n", found.stderr


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    away = "postgresql://me:s3cret@127.0.0.1:9/none"
    shown = _real("trials", "--storage", away, cwd=tmp_path)
    assert shown.returncode == 2
    assert len(shown.stderr.splitlines()) == 1
    assert "s3cret" not in shown.stderr
    assert "me:***@127.0.0.1:9" in shown.stderr


@pytest.mark.parametrize("verb", ["trials", "best-trials", "best-trial"])
def test_the_optuna_cli_reads_the_same_study(opened: Opened, verb: str) -> None:
    command = [str(Path(sys.executable).with_name("optuna")), verb, "--study-name", "small"]
    storage = ["--storage", f"sqlite:///{opened.root / 'optuna.db'}"]
    found = subprocess.run([*command, *storage, "-f", "json"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    read = json.loads(found.stdout)
    rows = read if isinstance(read, list) else [read]
    ours = {row["number"]: row for row in _json("trials")}
    assert {row["number"] for row in rows} == (set(ours) if verb == "trials" else {1})
    best = next(row for row in rows if row["number"] == 1)
    assert best["params"] == {"training.risk_beta": 2.0}
    assert ours[1]["values"]["pass_at_2"] in best.values()


def test_the_dashboard_reads_the_same_study(opened: Opened) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    pages = dashboard.wsgi(opened.study._storage)
    studies = _get(pages, "/api/studies")["study_summaries"]
    assert [study["study_name"] for study in studies] == ["small"]
    shown = _get(pages, f"/api/studies/{studies[0]['study_id']}")
    assert [trial["state"] for trial in shown["trials"]] == [
        "Complete",
        "Complete",
        "Fail",
        "Pruned",
    ]
    assert shown["objective_names"] == ["pass_at_2"]


def _get(pages: Any, path: str) -> Any:
    from wsgiref.util import setup_testing_defaults

    request: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
    setup_testing_defaults(request)
    told: list[str] = []
    body = pages(request, lambda status, headers, fault=None: told.append(status))
    text = b"".join(body)
    assert told[0].startswith("200"), (told, text[:300])
    return json.loads(text)
