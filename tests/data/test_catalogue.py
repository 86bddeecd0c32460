"""The named sets as data, and their names in a config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsgrpo.config import load_config
from rsgrpo.data.catalogue import CATALOGUE, after_hashes, data_folder, without_dapo_frame
from rsgrpo.errors import UserError
from rsgrpo.study import prepared

JSONL = "source: jsonl"
GRADING = "grading: {verifier: math_verify}"


def config_file(folder: Path, data: str) -> Path:
    (folder / "c.yaml").write_text(f"data: {{{JSONL}, {data}}}\n{GRADING}\n")
    return folder / "c.yaml"


def test_six_benchmarks_and_four_training_sets() -> None:
    kinds = {name: entry.kind for name, entry in CATALOGUE.items()}
    assert [name for name, kind in kinds.items() if kind == "benchmark"] == [
        "aime24",
        "aime25",
        "hmmt_feb24",
        "hmmt_feb25",
        "cmimc25",
        "math500",
    ]
    assert [name for name, kind in kinds.items() if kind == "training"] == [
        "math12k",
        "dapo17k",
        "deepmath103k",
        "gsm8k",
    ]


def test_revisions_are_whole_commits_or_open() -> None:
    open_ = [name for name, entry in CATALOGUE.items() if entry.revision is None]
    assert open_ == ["hmmt_feb24", "math12k"]
    for entry in CATALOGUE.values():
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
        assert entry.licence and entry.rows > 0


def test_answers_and_problems_are_read_out_of_their_frames() -> None:
    assert after_hashes("48/2 = <<48/2=24>>24\n#### 1,234") == "1234"
    prompt = (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        "\n\nFirst part.\n\nWhat is $1 + 1$?\n\nRemember to put your answer on its own line after "
        '"Answer:".'
    )
    assert without_dapo_frame(prompt) == "First part.\n\nWhat is $1 + 1$?"
    with pytest.raises(ValueError, match="without DAPO's instructions"):
        without_dapo_frame("What is $1 + 1$?")


def test_the_data_folder_is_below_the_current_one_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSGRPO_DATA", raising=False)
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("RSGRPO_DATA", "/elsewhere")
    assert data_folder() == Path("/elsewhere")


def test_a_config_names_sets_and_files_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()
    for name in ("math12k", "aime24"):
        (tmp_path / "sets" / f"{name}.jsonl").write_text("{}\n")
        (tmp_path / name).write_text("a file of that name does not shadow the set")
    file = config_file(tmp_path, "train: math12k, benchmarks: [aime24, more/mine.jsonl]")
    config = load_config(file)
    assert config.data.train == Path("math12k")
    mine = tmp_path / "more" / "mine.jsonl"
    assert config.data.benchmarks == {"aime24": Path("aime24"), "mine": mine}
    assert prepared(config).inputs["files"] == {
        "train": tmp_path / "sets" / "math12k.jsonl",
        "benchmarks/aime24": tmp_path / "sets" / "aime24.jsonl",
        "benchmarks/mine": mine,
    }


def test_benchmarks_as_a_mapping_keep_their_own_names(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path, "benchmarks: {old: aime24, new: aime25}"))
    assert config.data.benchmarks == {"old": Path("aime24"), "new": Path("aime25")}


def test_benchmarks_are_named_on_the_command_line(tmp_path: Path) -> None:
    file = config_file(tmp_path, "train: math12k")
    config = load_config(file, ["data.benchmarks=[aime24,math500]"])
    assert list(config.data.benchmarks) == ["aime24", "math500"]


def test_a_set_that_is_not_prepared_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"math12k is not in .*: run rsgrpo data prepare math12k"):
        prepared(load_config(config_file(tmp_path, "train: math12k")))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("train: math13k", "data.train.*unknown data set 'math13k': did you mean math12k?"),
        ("benchmarks: [aime24, aime26]", "unknown data set 'aime26': did you mean aime2"),
        ("benchmarks: {own: mine}", "'mine'.*the name of a file ends in .jsonl"),
        ("benchmarks: [a/x.jsonl, b/x.jsonl]", "two benchmarks are called x"),
    ],
)
def test_a_name_that_no_set_has_is_refused(tmp_path: Path, data: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_config(config_file(tmp_path, data))
