"""Leases: one holder each, given up by the dead at once here and after a silence elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsgrpo.config import Config
from sweeps.attempts import Attempt
from sweeps.holders import this_process
from sweeps.ledger import SILENT_SECONDS, Ledger, unit_lease
from sweeps.units import Unit

UNIT = Unit("study", 3, 1, Config())

HOLD = """
import sys, time
from pathlib import Path
from rsgrpo.config import Config
from sweeps.ledger import Ledger
from sweeps.units import Unit
lease = Ledger(Path(sys.argv[1])).begin(Unit("study", 3, 1, Config()))
print("held" if lease else "refused", flush=True)
time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def disguise(ledger: Ledger, name: str, **changes: object) -> None:
    """Make a lease another machine's, as far as its file says."""
    path = ledger.path_of(name)
    content = json.loads(path.read_text())
    content["holder"] |= changes
    path.write_text(json.dumps(content))


def test_a_lease_has_one_holder(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    lease = ledger.take("trial-0", {"progress": "begins"})
    assert lease is not None
    assert other.take("trial-0") is None
    lease.say(progress="half")
    (held,) = other.held()
    assert (held.name, held.pid, held.alive) == ("trial-0", os.getpid(), True)
    assert held.said == {"progress": "half"}
    lease.release()
    assert other.held() == []
    assert other.take("trial-0") is not None


def test_the_lease_of_a_killed_process_is_free_at_once_and_its_attempt_counts(
    tmp_path: Path,
) -> None:
    process = hold(tmp_path)
    ledger = Ledger(tmp_path)
    assert ledger.is_held(unit_lease(UNIT)) and ledger.begin(UNIT) is None
    began, heard = ledger.held()[0].since, time.time() + 5
    os.utime(ledger.path_of(unit_lease(UNIT)), (heard, heard))
    process.send_signal(signal.SIGKILL)
    while ledger.is_held(unit_lease(UNIT)):  # a zombie holds nothing: nobody has waited for it
        time.sleep(0.01)
    lease = ledger.begin(UNIT)
    assert lease is not None
    (attempt,) = ledger.attempts()
    assert (attempt.trial, attempt.seed, attempt.ending) == (3, 1, "killed")
    assert attempt.device_seconds == pytest.approx(heard - began, abs=0.01)
    lease.end("finished", tokens=7)
    assert [(a.ending, a.tokens) for a in ledger.attempts()] == [("killed", 0), ("finished", 7)]
    process.wait()


def test_a_process_that_has_another_ones_id_holds_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.take("trial-0")
    disguise(ledger, "trial-0", started=this_process().started - 1)
    assert not ledger.is_held("trial-0")


@pytest.mark.parametrize("elsewhere", [{"host": "far"}, {"boot": "old"}, {"space": "pid:[1]"}])
def test_a_holder_elsewhere_lives_as_long_as_its_heartbeat(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    ledger = Ledger(tmp_path)
    lease = ledger.take("trial-0")
    assert lease is not None
    disguise(ledger, "trial-0", **elsewhere)
    path = ledger.path_of("trial-0")
    for age, alive in ((SILENT_SECONDS - 5, True), (SILENT_SECONDS + 5, False)):
        now = time.time()
        os.utime(path, (now - age, now - age))
        assert ledger.is_held("trial-0") is alive
    other = Ledger(tmp_path)
    assert other.take("trial-0") is not None
    lease.beat()  # it slept, and learns now that it was taken for dead
    assert lease.lost
    lease.release()
    assert other.is_held("trial-0")


def test_a_damaged_lease_holds_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path_of("trial-0").write_text('{"token": ')
    assert ledger.take("trial-0") is not None


def test_torn_and_repeated_lines_of_the_record_do_not_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = Attempt(0, 0, "a", "here:1", 1.0, 3.0, "killed", "gone", 0, 2.0)
    ledger.record(first)
    assert ledger.attempts() == [first]
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"trial": 1, "se')
    assert Ledger(tmp_path).attempts() == [first]
    second = first._replace(id="b", ending="finished")
    ledger.record(second)
    ledger.record(first)
    assert ledger.attempts() == Ledger(tmp_path).attempts() == [first, second]


def test_a_stop_is_asked_of_all_or_of_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.stop_asked() is None
    ledger.ask_stop("cancelled", "unit-3-1")
    assert (ledger.stop_asked("unit-3-1"), ledger.stop_asked()) == ("cancelled", None)
    ledger.ask_stop("enough")
    assert ledger.stop_asked("unit-9-9") == "enough"
    ledger.clear_stop()
    assert ledger.stop_asked() is None


def test_the_lease_of_a_dead_holder_is_buried_and_one_of_the_living_is_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    lease = ledger.begin(UNIT)
    ledger.bury(unit_lease(UNIT))
    assert lease is not None and ledger.is_held(unit_lease(UNIT))
    disguise(ledger, unit_lease(UNIT), started=this_process().started - 1)
    ledger.bury(unit_lease(UNIT))
    assert ledger.held() == []
    assert [attempt.ending for attempt in ledger.attempts()] == ["killed"]
