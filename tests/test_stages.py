"""Manifests: the only cache. What is finished is reused, what is not is gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rsgrpo import stages
from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.nodes import Node, node_from_json, node_to_json
from rsgrpo.stage_table import Stage
from rsgrpo.stages import find, run, run_rank
from rsgrpo.study import plan_study

CALLS: list[str] = []


def write_number(config: Config, *, out: Path, number: int) -> None:
    """A stage that leaves a file."""
    CALLS.append(out.parent.name)
    (out / "number.txt").write_text(str(number))


def double(config: Config, *, source: Path, out: Path) -> None:
    """A stage on top of another."""
    CALLS.append(out.parent.name)
    (out / "number.txt").write_text(str(2 * int((source / "number.txt").read_text())))


@pytest.fixture(autouse=True)
def two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    here = __name__
    monkeypatch.setitem(
        stages.STAGES, "write", Stage(f"{here}:write_number", ("data",), ("schedules.py",))
    )
    monkeypatch.setitem(
        stages.STAGES, "double", Stage(f"{here}:double", ("training",), ("schedules.py",))
    )
    sys.modules[here] = sys.modules[__name__]


def doubled(config: Config, number: int = 21) -> Node:
    source = Node("write", "n", config, extras={"number": number})
    return Node("double", "n", config, {"source": source})


def test_a_finished_stage_is_found_and_not_run_again(tmp_path: Path) -> None:
    node = doubled(Config())
    assert find(tmp_path, node) is None
    folder = run(tmp_path, node)
    assert (folder / "number.txt").read_text() == "42"
    assert find(tmp_path, node) == folder == run(tmp_path, node)
    assert CALLS == ["write", "double"]


def test_only_what_a_change_concerns_runs_again(tmp_path: Path) -> None:
    run(tmp_path, doubled(Config()))
    run(tmp_path, doubled(load_config(None, ["training.steps=7"])))
    assert CALLS == ["write", "double", "double"]
    run(tmp_path, doubled(load_config(None, ["sampling.n=7"])))
    assert CALLS == ["write", "double", "double"]


def test_another_input_gives_another_folder_and_overwrites_nothing(tmp_path: Path) -> None:
    first, second = run(tmp_path, doubled(Config(), 1)), run(tmp_path, doubled(Config(), 2))
    assert [(f / "number.txt").read_text() for f in (first, second)] == ["2", "4"]


def test_a_missing_or_cut_output_counts_as_unfinished(tmp_path: Path) -> None:
    folder = run(tmp_path, doubled(Config()))
    (folder / "number.txt").write_text("4")
    assert find(tmp_path, doubled(Config())) is None
    run(tmp_path, doubled(Config()))
    assert (folder / "number.txt").read_text() == "42"


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]"])
def test_a_damaged_manifest_counts_as_unfinished(content: str, tmp_path: Path) -> None:
    folder = run(tmp_path, doubled(Config()))
    (folder / "manifest.json").write_text(content)
    assert find(tmp_path, doubled(Config())) is None
    assert run(tmp_path, doubled(Config())) == folder
    assert CALLS == ["write", "double", "double"]


def test_the_manifest_names_inputs_config_code_and_outputs(tmp_path: Path) -> None:
    folder = run(tmp_path, doubled(Config()))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stage"] == "double" and manifest["outputs"]["number.txt"]["bytes"] == 2
    assert manifest["depends_on"].keys() == {
        "stage", "inputs", "extras", "config", "code", "packages"
    }  # fmt: skip
    assert manifest["depends_on"]["config"].keys() == {"training"}


def test_a_changed_line_of_code_runs_the_stage_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, doubled(Config()))
    monkeypatch.setattr(stages, "code_version", lambda rooms: "edited")
    assert find(tmp_path, doubled(Config())) is None


def test_a_file_as_input_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "number.txt").write_text("5")
    node = Node("double", "n", Config(), {"source": tmp_path / "a"})
    first = run(tmp_path, node)
    (tmp_path / "a" / "number.txt").write_text("6")
    assert run(tmp_path, node) != first
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path, Node("double", "n", Config(), {"source": tmp_path / "b"}))


@contextmanager
def held(folder: Path, seconds: float = 60) -> Iterator[None]:
    """Have another process hold a stage's lock, for a while at most."""
    holder = textwrap.dedent(f"""
        import fcntl, time
        file = open({str(folder / ".lock")!r}, "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep({seconds})
    """)
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield
        process.kill()


def test_two_processes_do_not_run_one_stage_at_once(tmp_path: Path) -> None:
    node = doubled(Config())
    folder = run(tmp_path, node)
    (folder / "manifest.json").unlink()
    with held(folder), pytest.raises(UserError, match="another process is running stage double"):
        run(tmp_path, node)
    run(tmp_path, node)


def test_who_waits_for_another_process_says_so_once_and_reuses_what_it_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = doubled(Config())
    folder = run(tmp_path, node)
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").unlink()
    CALLS.clear()
    with held(folder, 1.0):
        later = threading.Timer(0.5, (folder / "manifest.json").write_text, [manifest])
        later.start()
        assert run(tmp_path, node, wait=True) == folder
        later.join()
    assert CALLS == []
    assert capsys.readouterr().err.count(": waiting for it") == 1


def test_other_ranks_work_along_and_only_the_first_writes_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = doubled(Config())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="needs stage write of n, which is not finished"):
        run_rank(tmp_path, node)
    source = node.inputs["source"]
    assert isinstance(source, Node)
    run(tmp_path, source)
    CALLS.clear()
    other = threading.Thread(target=run_rank, args=(tmp_path, node))
    other.start()
    time.sleep(0.3)
    assert CALLS == [], "it waits for the first rank"
    folder = stages._folder(tmp_path, node)
    folder.mkdir(parents=True)
    (folder / ".lock").write_text(stages._team())
    other.join(5)
    assert CALLS == ["double"] and not (folder / "manifest.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert run_rank(tmp_path, node) == folder == find(tmp_path, node)
    monkeypatch.setenv("RANK", "1")
    assert run_rank(tmp_path, node) == folder
    assert CALLS == ["double", "double"]


def test_a_study_survives_the_way_to_another_process(tiny_config: Config) -> None:
    study = plan_study(tiny_config)
    for run_ in study.runs:
        assert node_from_json(node_to_json(run_.score)) == run_.score
    assert node_from_json(node_to_json(study.analysis)) == study.analysis
    names = [run_.name for run_ in study.runs]
    assert names == ["base", "grpo-seed0", "rs_grpo-beta4-seed0"]
