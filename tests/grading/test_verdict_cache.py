"""Verdicts on disk: shared, versioned, killed, broken, full."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rsgrpo.grading import cache as cache_module
from rsgrpo.grading.cache import VerdictCache
from rsgrpo.grading.pool import GradingPool
from rsgrpo.grading.verify import Check
from rsgrpo.records import Answer, Verdict
from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[2]
TOWER = "9^{9^{9^9}}"

WRITER = r"""
import sys
from rsgrpo.grading.cache import VerdictCache
from rsgrpo.grading.verify import Check
name, cache, number = sys.argv[1], VerdictCache(), 0
print("ready", flush=True)
while number < int(sys.argv[2]):
    keys = [f"{name}/{number + step}".encode() for step in range(10)]
    cache.write({key: Check("correct", key.decode()) for key in keys})
    assert cache.read(keys).keys() == set(keys)
    number += 10
assert not cache._broken
"""


def boxed(gold: str, text: str) -> Answer:
    return Answer("p", "", gold, 0, f"\\boxed{{{text}}}")


def graded(*answers: Answer, **limits: object) -> tuple[list[Verdict], int]:
    with GradingPool(**limits) as pool:  # type: ignore[arg-type]
        return pool.grade(answers), pool.checks


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["RSGRPO_CACHE"])


def rows_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "verdicts.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])


def test_a_second_pool_checks_nothing_again(folder: Path) -> None:
    answers = [boxed("1/2", "0.5"), boxed("5", "11/2"), boxed("5", "5")]
    first, checks = graded(*answers)
    assert checks == 2
    assert graded(*answers) == (first, 0)
    assert [verdict.verdict for verdict in first] == ["correct", "incorrect", "correct"]
    assert rows_in(folder) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["verdicts.sqlite"]


def test_another_process_checks_nothing_again() -> None:
    code = (
        "from rsgrpo.grading.pool import GradingPool\n"
        "from rsgrpo.records import Answer\n"
        "with GradingPool() as pool:\n"
        r"    (verdict,) = pool.grade([Answer('p', '', '1/2', 0, r'\boxed{0.5}')])"
        "\n    print(verdict.correct, pool.checks)"
    )
    for checks in (1, 0):
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == f"True {checks}\n"


def test_no_text_of_an_answer_is_stored_but_what_a_full_text_says(folder: Path) -> None:
    answer = Answer("p", "", "72", 0, "A secret. A: 71")
    (first,), _ = graded(answer, extract="full")
    assert graded(answer, extract="full") == ([first], 0)
    assert first.extracted == "71"
    assert b"secret" not in (folder / "verdicts.sqlite").read_bytes()


def test_modes_and_memory_do_not_share_verdicts() -> None:
    answer = boxed("5", "10/2")
    assert graded(answer)[1] == 1
    assert graded(answer, extract="full")[1] == 1
    assert graded(answer, memory_mib=1024)[1] == 1
    assert graded(answer, timeout=9.0, workers=2, max_chars=50)[1] == 0


def test_another_version_of_the_grader_checks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graded(boxed("5", "10/2"))[1] == 1
    monkeypatch.setattr("rsgrpo.grading.pool.grader_version", lambda: "math-verify=1.0")
    assert graded(boxed("5", "10/2"))[1] == 1
    assert graded(boxed("5", "10/2"))[1] == 0


def test_the_version_names_every_package_that_decides() -> None:
    from importlib.metadata import version

    for package in ("math-verify", "sympy", "latex2sympy2_extended"):
        assert f"{package}={version(package)}" in cache_module.grader_version()


def test_what_depends_on_the_limits_is_never_stored(folder: Path) -> None:
    verdicts, checks = graded(boxed("5", TOWER), boxed("5", "10/2"), timeout=1.0)
    assert [verdict.verdict for verdict in verdicts] == ["timeout", "correct"]
    assert checks == 2
    assert rows_in(folder) == 1
    assert graded(boxed("5", TOWER), timeout=1.0)[1] == 1


def test_a_long_text_is_an_error_unless_it_is_equal(folder: Path) -> None:
    long = "1" * 30
    verdicts, checks = graded(boxed("5", long), boxed(long, long), boxed("5", "5"), max_chars=20)
    assert [verdict.verdict for verdict in verdicts] == ["error", "correct", "correct"]
    assert [verdict.extracted for verdict in verdicts] == [long, long, "5"]
    assert checks == 0
    assert list(folder.iterdir()) == []
    assert graded(boxed("5", long))[0][0].verdict == "incorrect"


def test_more_keys_than_one_query_holds() -> None:
    cache = VerdictCache()
    known = {str(n).encode(): Check("incorrect", "\ud83d") for n in range(2345)}
    cache.write(known)
    assert cache.read([*known, b"other"]) == known


def test_processes_and_threads_share_one_file(folder: Path) -> None:
    commands = [[sys.executable, "-c", WRITER, name, "200"] for name in "abcd"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    with ThreadPoolExecutor(4) as threads:
        for number in range(4):
            rows = {f"{number}/{n}".encode(): Check("correct", "") for n in range(50)}
            threads.submit(VerdictCache().write, rows)
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert rows_in(folder) == 4 * 200 + 4 * 50


def test_a_writer_that_is_killed_leaves_a_sound_file(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for attempt in range(3):
        command = [sys.executable, "-c", WRITER, f"w{attempt}", "1000000"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        written = rows_in(folder)
        assert written > 0
        VerdictCache().write({f"after {attempt}".encode(): Check("correct", "")})
        assert rows_in(folder) == written + 1


def assert_goes_on_without_it(capfd: pytest.CaptureFixture[str]) -> None:
    with GradingPool() as pool:
        for text in ("10/2", "15/3"):
            assert pool.grade([boxed("5", text)]) == [Verdict(text, "correct", True)]
        assert pool.checks == 2
    assert graded(boxed("5", "20/4")) == ([Verdict("20/4", "correct", True)], 1)
    said = capfd.readouterr().err
    assert said.count("warning: the cache of verdicts") == 1
    assert "grading goes on without it" in said


def test_a_broken_file_is_said_once_and_left_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = folder / "verdicts.sqlite"
    file.write_bytes(b"this is no database" * 1000)
    assert_goes_on_without_it(capfd)
    assert file.read_bytes() == b"this is no database" * 1000


def test_a_folder_that_cannot_be_made_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSGRPO_CACHE", str(tmp_path / "file" / "cache"))
    assert_goes_on_without_it(capfd)


def test_a_user_without_a_home_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RSGRPO_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    assert_goes_on_without_it(capfd)


@pytest.fixture(params=["size=256k", "ro"])
def bad_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        missing("tmpfs", "mounting a small tmpfs needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_or_read_only_disk_is_said_once(
    bad_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSGRPO_CACHE", str(bad_disk))
    if os.access(bad_disk, os.W_OK) and not os.statvfs(bad_disk).f_flag & os.ST_RDONLY:
        VerdictCache().write({b"first": Check("correct", "")})
        rest = (bad_disk / "rest").open("wb", buffering=0)
        with rest, pytest.raises(OSError, match="No space"):
            while True:
                rest.write(b"x" * 512)
    assert_goes_on_without_it(capfd)


@pytest.mark.parametrize(
    ("column", "value"),
    [("extracted", "text"), ("extracted", b"\xff"), ("verdict", "maybe"), ("verdict", "timeout")],
)
def test_rows_that_no_grader_wrote_are_not_believed(
    column: str, value: object, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = boxed("1/2", "0.50")
    expected = graded(answer)
    with closing(sqlite3.connect(folder / "verdicts.sqlite")) as connection, connection:
        connection.execute(f"UPDATE verdicts SET {column} = ?", [value])
    assert graded(answer) == expected
    assert capfd.readouterr().err.count("warning: the cache of verdicts") == 1
