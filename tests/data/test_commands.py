"""`rsgrpo data prepare | list | overlap` as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Rsgrpo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rsgrpo(tmp_path: Path) -> Rsgrpo:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", "data", *arguments]
        environment = {**os.environ, "RSGRPO_DATA": str(tmp_path / "sets"), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    return call


def test_prepare_then_list_then_overlap(rsgrpo: Rsgrpo, shared_data: Path) -> None:
    source = ["--source", str(shared_data / "benchmarks")]
    done = rsgrpo("prepare", *source, "dapo17k", "hmmt_feb24", "math500")
    assert done.returncode == 0, done.stderr
    assert "17279" in done.stdout and "11 (22 rows)" in done.stdout
    assert done.stderr.startswith("warning: dapo17k: 11 texts have several answers")
    assert rsgrpo("prepare", *source, "math500").stdout.splitlines()[1].endswith("unchanged")

    sets = {row["name"]: row for row in json.loads(rsgrpo("list", "--json").stdout)}
    assert len(sets) == 10
    assert (sets["math500"]["prepared"], sets["aime24"]["prepared"]) == ("500 rows", "no")
    assert sets["math12k"]["revision"] == "at download"
    assert sets["gsm8k"]["licence"] == "MIT"

    rows = json.loads(rsgrpo("overlap", "dapo17k", "hmmt_feb24", "math500", "--json").stdout)
    assert [(row["benchmark"], row["exact"], row["near"]) for row in rows] == [
        ("hmmt_feb24", 6, None),
        ("math500", 7, None),
    ]


def test_overlap_of_files_says_by_which_rule(rsgrpo: Rsgrpo, shared_data: Path) -> None:
    files = shared_data / "benchmarks"
    done = rsgrpo("overlap", str(files / "aime24.jsonl"), str(files / "aime25.jsonl"), "--near")
    first, *_, row = done.stdout.splitlines()
    assert "13-word shingles, Jaccard >= 0.5" in first
    assert row.split() == ["aime24", "aime25", "30", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "math500"], "could not be had from the hub"),
        (["prepare", "aime23"], "unknown data set 'aime23'"),
        (["overlap", "math12k", "aime24"], "run rsgrpo data prepare"),
        (["overlap", "math13k", "aime24"], "did you mean math12k?"),
        (["overlap", "nowhere.jsonl", "aime24"], "does not exist"),
    ],
)
def test_faults_are_one_sentence(rsgrpo: Rsgrpo, arguments: list[str], words: str) -> None:
    done = rsgrpo(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
