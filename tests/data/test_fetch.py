"""Named sets out of a folder of JSONL files and out of a hub data set, without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsgrpo.data.catalogue import CATALOGUE, DataSet
from rsgrpo.data.fetch import chosen_sets, prepare_set, read_hub, read_record
from rsgrpo.data.jsonl import read_problems
from rsgrpo.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RSGRPO_DATA", str(tmp_path / "sets"))
    return tmp_path / "sets"


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield


def published(folder: Path, name: str, rows: list[dict[str, Any]]) -> DataSet:
    """Return a named set whose hub id is a local data set folder with the given rows."""
    entry = CATALOGUE[name]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{entry.split}.parquet")
    config = entry.config or "default"
    card = f"configs:\n- config_name: {config}\n  data_files:\n  - split: {entry.split}\n"
    (folder / "README.md").write_text(f"---\n{card}    path: {entry.split}.parquet\n---\n")
    return entry._replace(hub_id=str(folder), revision=COMMIT, rows=len(rows))


def dapo_row(problem: str, answer: str) -> dict[str, Any]:
    content = (
        "Solve the following math problem step by step. The last line is Answer: $Answer.\n\n"
        f'{problem}\n\nRemember to put your answer on its own line after "Answer:".'
    )
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def test_gsm8k_becomes_problems_with_bare_answers(tmp_path: Path) -> None:
    rows = [
        {"question": "How much is\u2028it?", "answer": "1000 + 234 = 1,234\n#### 1,234"},
        {"question": "And this? ", "answer": "#### 7"},
    ]
    entry = published(tmp_path / "hub", "gsm8k", rows)
    done = prepare_set(entry)
    first, second = read_problems(done.file)
    assert first == ("gsm8k-00000", "How much is\u2028it?", "1234", f"{entry.hub_id}@0123456789ab")
    assert second[:3] == ("gsm8k-00001", "And this?", "7")
    assert (done.rows, done.unchanged) == (2, False)


def test_dapo_is_taken_out_of_its_frame_and_its_repeats(tmp_path: Path) -> None:
    rows = [dapo_row("What is $1 + 1$?", "2"), dapo_row("What is $2 + 2$?", "4")] * 100
    entry = published(tmp_path / "hub", "dapo17k", [*rows, dapo_row("What is $2 + 2$?", "5")])
    done = prepare_set(entry)
    assert [p[:3] for p in read_problems(done.file)] == [("dapo17k-00000", "What is $1 + 1$?", "2")]
    assert (done.duplicates, done.conflicts, done.conflicting_rows) == (198, 1, 2)
    assert "1 texts have several answers and are dropped" in done.warnings[0]
    record = read_record("dapo17k")
    assert record is not None and record["conflicts"] == [
        [{"id": "dapo17k-00001", "answer": "4"}, {"id": "dapo17k-00002", "answer": "5"}]
    ]


@pytest.mark.parametrize("name", ["aime25", "math500", "deepmath103k"])
def test_other_columns_are_left_where_they_are(tmp_path: Path, name: str) -> None:
    entry = CATALOGUE[name]
    row = {"level": 5, entry.problem: "1 + 1?", entry.answer: 2, "solution": "x" * 100}
    problems, rows_read = read_hub(published(tmp_path / "hub", name, [row]), COMMIT)
    assert [p[:3] for p in problems] == [(f"{name}-00000", "1 + 1?", "2")]
    assert rows_read == 1


def test_what_was_fetched_is_recorded_and_not_fetched_again(tmp_path: Path) -> None:
    entry = published(tmp_path / "hub", "math12k", [{"problem": "1 + 1?", "answer": "2"}])
    done = prepare_set(entry)
    record = read_record("math12k")
    assert record is not None
    assert record.pop("prepared_at").endswith("+00:00")
    assert record == {
        "name": "math12k",
        "from": "hub",
        "hub_id": entry.hub_id,
        "config": None,
        "split": "train",
        "revision": COMMIT,
        "licence": entry.licence,
        "rows_read": 1,
        "rows": 1,
        "duplicates": 0,
        "conflicts": [],
        "sha256": hashlib.sha256(done.file.read_bytes()).hexdigest(),
    }
    written = done.file.stat().st_mtime_ns
    assert prepare_set(entry).unchanged
    # Without a pin of the catalogue's own the recorded commit is the pin: the hub is not asked.
    assert prepare_set(entry._replace(revision=None)).unchanged
    assert done.file.stat().st_mtime_ns == written
    assert not prepare_set(entry._replace(revision=COMMIT[::-1])).unchanged


def test_a_prepared_file_that_was_changed_is_made_again(tmp_path: Path) -> None:
    entry = published(tmp_path / "hub", "math12k", [{"problem": "1 + 1?", "answer": "2"}])
    done = prepare_set(entry)
    done.file.write_text("")
    assert not prepare_set(entry).unchanged
    assert len(read_problems(done.file)) == 1


def test_another_number_of_rows_than_published_is_told(tmp_path: Path) -> None:
    entry = published(tmp_path / "hub", "aime24", [{"problem": "1 + 1?", "answer": "2"}])
    assert prepare_set(entry).warnings == ["aime24: 1 rows were read, 30 are expected"]


def test_a_set_of_other_columns_is_refused(tmp_path: Path) -> None:
    entry = published(tmp_path / "hub", "gsm8k", [{"prompt": "1 + 1?", "answer": "#### 2"}])
    with pytest.raises(UserError, match="has no column 'question' but prompt, answer"):
        prepare_set(entry)


def test_a_prompt_without_its_frame_is_refused(tmp_path: Path) -> None:
    row = {**dapo_row("", ""), "prompt": [{"role": "user", "content": "What is $1 + 1$?"}]}
    with pytest.raises(UserError, match=r"cannot be read .a prompt without DAPO's instructions"):
        prepare_set(published(tmp_path / "hub", "dapo17k", [row]))


@pytest.mark.parametrize("name", ["gsm8k", "hmmt_feb24"])
def test_a_hub_that_cannot_be_reached_is_one_sentence(name: str, data_folder: Path) -> None:
    with pytest.raises(UserError, match=r"could not be had from the hub.*with --source DIR") as met:
        prepare_set(CATALOGUE[name])
    assert "\n" not in str(met.value)
    assert not data_folder.exists()


def test_a_folder_of_files_is_read_once(tmp_path: Path, data_folder: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    row = {"id": "mine-1", "problem": "1 + 1?", "answer": 2, "source": "a book", "more": 1}
    (source / "gsm8k_train2k.jsonl").write_text(json.dumps(row) + "\n")
    [entry] = chosen_sets([], source)
    assert entry.name == "gsm8k"
    assert not prepare_set(entry, source).unchanged
    assert prepare_set(entry, source).unchanged
    assert [
        json.loads(line) for line in (data_folder / "gsm8k.jsonl").read_text().splitlines()
    ] == [{"id": "mine-1", "problem": "1 + 1?", "answer": "2", "source": "a book"}]
    (source / "gsm8k_train2k.jsonl").write_text(json.dumps({**row, "answer": 3}) + "\n")
    assert not prepare_set(entry, source).unchanged
    assert sorted(file.name for file in data_folder.iterdir()) == [
        "gsm8k.jsonl",
        "gsm8k.source.json",
    ]


def test_all_that_the_shared_folder_has_is_prepared(shared_data: Path) -> None:
    source = shared_data / "benchmarks"
    rows = {e.name: prepare_set(e, source).rows for e in chosen_sets([], source)}
    assert rows == {
        "aime24": 30,
        "aime25": 30,
        "hmmt_feb24": 30,
        "hmmt_feb25": 30,
        "cmimc25": 40,
        "math500": 500,
        "math12k": 11_998,
        "dapo17k": 17_279,
        "gsm8k": 2_000,
    }


@pytest.mark.parametrize(
    ("names", "source", "sentence"),
    [
        (["aime23"], None, "unknown data set 'aime23': did you mean aime2"),
        ([], "empty", "holds none of aime24.jsonl"),
        ([], "missing", "is no folder"),
    ],
)
def test_names_and_folders_that_do_not_exist_are_refused(
    tmp_path: Path, names: list[str], source: str | None, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        chosen_sets(names, tmp_path / source if source else None)


def test_a_name_that_the_folder_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no deepmath103k\.jsonl"):
        prepare_set(CATALOGUE["deepmath103k"], tmp_path)
