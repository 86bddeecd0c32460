"""Splits, JSONL files of one's own, and their faults."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.data.jsonl import read_problems
from rsgrpo.data.prepare import prepare, read_benchmarks
from rsgrpo.errors import UserError
from rsgrpo.stages import find, run
from rsgrpo.study import prepared

BENCHMARKS = ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")


def test_splits_pool_and_corpus_do_not_share_held_out_prompts(tmp_path: Path) -> None:
    prepare(Config(), out=tmp_path)
    splits = {
        split: {p.id for rows in read_benchmarks(tmp_path, split).values() for p in rows}
        for split in ("development", "test")
    }
    pool = {problem.id for problem in read_problems(tmp_path / "train.jsonl")}
    corpus = (tmp_path / "corpus.jsonl").read_text().count("\n")
    assert len(splits["development"]) == len(splits["test"]) == 240
    assert not splits["development"] & splits["test"]
    assert not pool & (splits["development"] | splits["test"])
    assert len(pool) == 5 * 200 + 139
    assert corpus == 7657 - 480


def test_preparation_is_the_same_every_time(tmp_path: Path) -> None:
    prepare(Config(), out=tmp_path / "a")
    prepare(Config(), out=tmp_path / "b")
    for file in (tmp_path / "a").rglob("*.json*"):
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == twin.read_bytes()


def test_files_of_ones_own_become_training_set_and_benchmarks(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "problem": f"1 + {i}?", "answer": 1 + i} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.yaml").write_text(
        "data: {source: jsonl, train: mine.jsonl, benchmarks: {mine: mine.jsonl}, limit: 3,"
        " drop_overlaps: false}\n"
        "grading: {verifier: math_verify}"
    )
    node = prepared(load_config(tmp_path / "c.yaml"))
    out = run(tmp_path, node)
    assert len(read_problems(out / "train.jsonl")) == 3
    [problem, *_] = read_benchmarks(out, "test")["mine"]
    assert problem == ("p0", "1 + 0?", "1", "mine")
    (tmp_path / "mine.jsonl").write_text(json.dumps({**rows[0], "answer": "edited"}) + "\n")
    assert find(tmp_path, node) is None
    assert read_problems(run(tmp_path, node) / "train.jsonl")[0].answer == "edited"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"id": 1, "problem": "x"}\n', "line 1 has no 'answer'"),
        ('{"id": 1, "problem": "x", "answer": null}\n', "line 1 has no 'answer'"),
        ('{"id": 1, "problem": "x", "answer": "2"}\n{"id": 1', "line 2 is not valid JSON"),
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ("", "holds no problem"),
        ('{"id": 1, "problem": "x", "answer": "2"}\n' * 2, "line 2: id '1' occurs twice"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(
    tmp_path: Path, content: str, sentence: str
) -> None:
    file = tmp_path / "faulty.jsonl"
    file.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_problems(file)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(UserError, match="not UTF-8 at byte 8"):
        read_problems(tmp_path / "latin.jsonl")


def test_line_separators_inside_strings_do_not_cut_a_row(tmp_path: Path) -> None:
    row = {"id": "u", "problem": "a\u2028b", "answer": "1"}
    (tmp_path / "u.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_problems(tmp_path / "u.jsonl")[0].problem == "a\u2028b"


def write(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    keys = ("id", "problem", "answer")
    file.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return file


def config_of(**data: object) -> Config:
    return Config.model_validate(
        {"data": {"source": "jsonl", **data}, "grading": {"verifier": "math_verify"}}
    )


def test_duplicates_conflicts_and_overlaps_leave_the_training_set_and_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(
        tmp_path / "t.jsonl",
        [
            ("a", "What is 1 + 1?", "2"),
            ("b", "What is 2 + 2?", "4"),
            ("c", "What is 1 + 1?", "2"),
            ("d", "What is 9 - 1?", "8"),
            ("e", "What is 9 - 1?", "7"),
            ("f", "what is $2 + 3$", "5"),
        ],
    )
    bench = write(tmp_path / "b.jsonl", [("x", "What is 2+3?", "5")])
    config = config_of(train=train, benchmarks={"own": bench})
    out = run(tmp_path / "runs", prepared(config))
    assert capsys.readouterr().err == (
        "warning: 4 of 6 training rows are dropped: 1 duplicates, 2 with conflicting answers, 1 in "
        f"a benchmark; they are listed in {out / 'dropped.json'}\n"
    )
    assert [p.id for p in read_problems(out / "train.jsonl")] == ["a", "b"]
    assert [p.id for p in read_benchmarks(out, "test")["own"]] == ["x"]
    assert json.loads((out / "dropped.json").read_text()) == {
        "rows": 6,
        "kept": 2,
        "duplicates": {"rows": 1, "ids": ["c"]},
        "conflicting_answers": {"texts": 1, "rows": 2, "ids": ["d", "e"]},
        "overlaps": {
            "looked_for": True,
            "near_rule": "13-word shingles, Jaccard >= 0.5",
            "rows": 1,
            "pairs": [{"train_id": "f", "benchmark": "own", "benchmark_id": "x", "kind": "exact"}],
        },
    }
    again = run(tmp_path / "again", prepared(config))
    assert (again / "dropped.json").read_bytes() == (out / "dropped.json").read_bytes()


def test_overlaps_stay_where_the_config_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [("a", "What is 1 + 1?", "2")])
    kept = config_of(train=file, benchmarks={"own": file}, drop_overlaps=False)
    out = run(tmp_path, prepared(kept))
    assert [p.id for p in read_problems(out / "train.jsonl")] == ["a"]
    assert json.loads((out / "dropped.json").read_text())["overlaps"]["looked_for"] is False


def test_a_training_set_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [("a", "What is 1 + 1?", "2")])
    with pytest.raises(UserError, match=r"nothing is left of the 1 rows.*set data\.drop_overlaps"):
        run(tmp_path, prepared(config_of(train=file, benchmarks={"own": file})))


def test_the_identity_of_the_embedded_task_is_what_it_was(tmp_path: Path) -> None:
    prepare(Config(), out=tmp_path)
    digest = hashlib.sha256((tmp_path / "dataset.json").read_bytes()).hexdigest()
    assert digest == "45ed9883e09e04e1e731036eba82d1cd0c74a6869cf59f1c34b324b357ee9ff2"
    assert not (tmp_path / "dropped.json").exists()


def test_dapo_loses_what_it_shares_with_the_six_benchmarks(
    shared_data: Path, tmp_path: Path
) -> None:
    files = shared_data / "benchmarks"
    config = config_of(
        train=files / "dapo17k.jsonl", benchmarks=[str(files / f"{n}.jsonl") for n in BENCHMARKS]
    )
    out = run(tmp_path, prepared(config))
    dropped = json.loads((out / "dropped.json").read_text())
    assert (dropped["rows"], dropped["duplicates"]["rows"]) == (17_917, 616)
    assert (dropped["conflicting_answers"]["texts"], dropped["kept"]) == (11, 17_255)
    assert dropped["overlaps"]["rows"] == 24
    assert len(read_problems(out / "train.jsonl")) == 17_255


def test_every_real_benchmark_reads(shared_data: Path) -> None:
    rows = {
        name: len(read_problems(shared_data / "benchmarks" / f"{name}.jsonl"))
        for name in ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")
    }
    assert rows == {
        "aime24": 30,
        "aime25": 30,
        "hmmt_feb24": 30,
        "hmmt_feb25": 30,
        "cmimc25": 40,
        "math500": 500,
    }
