"""`rsgrpo analyse ...` and `rsgrpo cases` as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys

import pytest

from rsgrpo import cli
from rsgrpo.config import math_grading
from rsgrpo.data.countdown import puzzles, to_problem
from rsgrpo.grading.files import grade_file
from rsgrpo.stages import run
from rsgrpo.study import base_policy, base_run, prepared, rollouts_run
from rsgrpo.tracking.journal import begin_study, end_study

SPLIT = 3


def rsgrpo(monkeypatch, capsys, *words):
    """Run the program; return its status, output and errors."""
    monkeypatch.setattr(sys, "argv", ["rsgrpo", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    return end.value.code or 0, printed.out, printed.err


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """Real rollouts: the first three samples of each problem, and the other five."""
    pytest.importorskip("math_verify")
    folder = tmp_path_factory.mktemp("real")
    text = (shared_data / "rollouts" / "qwen25math_cot100x8.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    for name, chosen in (
        ("first", [row for row in rows if row["sample_index"] < SPLIT]),
        ("last", [row for row in rows if row["sample_index"] >= SPLIT]),
    ):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
        grade_file(file, folder / f"{name}.parquet", math_grading(timeout=20.0))
    return folder / "first.parquet", folder / "last.parquet"


def test_unique_on_real_rollouts(real, monkeypatch, capsys):
    status, out, _ = rsgrpo(monkeypatch, capsys, "analyse", "unique", *real, "--json")
    first, last = json.loads(out)
    assert status == 0
    assert {row["n_samples"] for row in (first, last)} == {3}
    assert {row["n_prompts"] for row in (first, last)} == {100}
    for row in (first, last):
        assert 1 <= row["unique_answers_low"] <= row["unique_answers"] <= 3
        assert 1 < row["unique_solutions"] < 3
        assert row["capped_prompts"] == 0


def test_entropy_on_real_rollouts(real, monkeypatch, capsys):
    status, out, _ = rsgrpo(monkeypatch, capsys, "analyse", "entropy", *real, "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert status == 0
    assert 0 < float(row["before"]) < float(row["before_corrected"]) < 0.3
    assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])
    assert row["token_before"] == ""


def test_transitions_on_real_rollouts(real, monkeypatch, capsys):
    status, out, _ = rsgrpo(monkeypatch, capsys, "analyse", "transitions", *real)
    assert status == 0
    header, row = out.splitlines()
    figures = dict(zip(header.split(), row.split(), strict=False))
    kinds = ("solved_solved", "solved_unsolved", "unsolved_solved", "unsolved_unsolved")
    assert sum(int(figures[kind]) for kind in kinds) == 100


def test_cases_on_real_rollouts_are_written_and_printed(real, monkeypatch, capsys, tmp_path):
    page = tmp_path / "new" / "cases.md"
    status, out, err = rsgrpo(monkeypatch, capsys, "cases", *real, "-o", page)
    assert (status, err) == (0, "")
    assert out == f"{page}: 2 of 2 prompts\n"
    assert rsgrpo(monkeypatch, capsys, "cases", *real)[1] == page.read_text("utf-8")


def test_a_page_is_never_written_over_a_graded_file(real, monkeypatch, capsys, tmp_path):
    files = [shutil.copy(file, tmp_path) for file in real]
    status, _, err = rsgrpo(monkeypatch, capsys, "cases", *files, "-o", files[1])
    assert status == 2 and "is a graded file that is read: name another" in err
    assert (tmp_path / real[1].name).read_bytes() == real[1].read_bytes()


def test_nothing_to_show_is_said_and_no_fault(real, monkeypatch, capsys, tmp_path):
    page = tmp_path / "cases.md"
    status, out, _ = rsgrpo(monkeypatch, capsys, "cases", real[0], real[0], "-o", page)
    assert status == 0
    assert (
        out == "nothing to show: first solves none of the 100 prompts that first leaves unsolved\n"
    )
    assert not page.exists()


@pytest.mark.parametrize(
    "verb", [("analyse", "unique"), ("analyse", "entropy"), ("analyse", "transitions"), ("cases",)]
)
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f.unlink(), "does not exist"),
        (lambda f: f.write_bytes(b"PAR1 not really"), "is not a Parquet file"),
        (lambda f: f.write_bytes(b""), "is not a Parquet file"),
    ],
)
def test_a_bad_file_is_one_sentence(verb, spoil, sentence, write_graded, monkeypatch, capsys):
    good = write_graded("good", {"p": [("1", "incorrect")]})
    bad = write_graded("bad", {"p": [("1", "incorrect")]})
    spoil(bad)
    for files in ((good, bad), (bad, good)):
        status, out, err = rsgrpo(monkeypatch, capsys, *verb, *files)
        assert (status, out) == (2, "")
        assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "verb", [("analyse", "unique"), ("analyse", "entropy"), ("analyse", "transitions"), ("cases",)]
)
def test_an_id_that_stands_for_two_problems_is_refused(verb, write_graded, monkeypatch, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = write_graded("one", {"p": [("1", "incorrect")]}, problem="6 x 7?")
    two = write_graded("two", {"p": [("1", "correct")]}, problem="6 x 9?")
    assert rsgrpo(monkeypatch, capsys, *verb, one, two)[0] == 0
    table = pq.read_table(two)
    place = table.schema.get_field_index("answer")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(["54"])), two)
    status, _, err = rsgrpo(monkeypatch, capsys, *verb, one, two)
    assert (status, err.count("\n")) == (2, 1)
    assert "problem p of set has another text and the gold answer '54'" in err


@pytest.mark.parametrize(
    "verb", [("analyse", "unique"), ("analyse", "entropy"), ("analyse", "transitions"), ("cases",)]
)
def test_other_prompts_no_rows_and_too_large_n_are_one_sentence(
    verb, write_graded, monkeypatch, capsys
):
    one = write_graded("one", {"p": [("1", "incorrect")], "q": [("1", "incorrect")]})
    two = write_graded("two", {"p": [("1", "incorrect")], "r": [("1", "incorrect")]})
    status, _, err = rsgrpo(monkeypatch, capsys, *verb, one, two)
    assert (status, err.count("\n")) == (2, 1)
    assert "one.parquet has problem 'q' of set and" in err and "two.parquet has not" in err
    status, _, err = rsgrpo(monkeypatch, capsys, *verb, one, write_graded("none", {}))
    assert (status, err.count("\n")) == (2, 1)
    wanted = "0" if verb == ("cases",) else "2"
    status, _, err = rsgrpo(monkeypatch, capsys, *verb, one, one, "--n", wanted)
    assert (status, err.count("\n")) == (2, 1)
    assert f"n is {wanted}" in err


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("problem", [None], "column problem has an empty value"),
        ("extracted", [7], "column extracted holds int64: it must hold text"),
        ("sample_index", ["first"], "column sample_index holds string: number the samples from 0"),
        ("correct", ["yes"], "column correct holds string: it must be true or false"),
        ("verdict", None, "lacks the column verdict"),
    ],
)
def test_a_column_of_the_wrong_kind_is_one_sentence(
    name, values, sentence, write_graded, monkeypatch, capsys
):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = write_graded("bad", {"p": [("1", "incorrect")]})
    table = pq.read_table(file).drop_columns([name])
    if values:
        kind = pa.string() if values == [None] else None
        table = table.append_column(name, pa.array(values, kind))
    pq.write_table(table, file)
    status, out, err = rsgrpo(monkeypatch, capsys, "analyse", "unique", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_unique_and_entropy_of_embedded_samples(tiny_config, tiny_root, monkeypatch, capsys):
    base = base_run(tiny_config, base_policy(tiny_config))
    graded = run(tiny_root, base.score.inputs["graded"])
    status, out, _ = rsgrpo(monkeypatch, capsys, "analyse", "unique", graded, "--json")
    rows = json.loads(out)
    assert status == 0
    assert (rows[-1]["benchmark"], rows[-1]["n_samples"]) == ("mean", 16)
    assert all(row["unique_workings"] <= row["unique_solutions"] + 1e-9 for row in rows)
    status, out, _ = rsgrpo(monkeypatch, capsys, "analyse", "entropy", graded, graded, "--json")
    assert [row["difference"] for row in json.loads(out)] == [0.0] * len(rows)


def rollouts_file(path, completions):
    """Countdown rollouts: each puzzle's samples as `completions` makes them of it."""
    chosen = [puzzle for puzzle in puzzles() if len(puzzle.solutions) >= 4][:5]
    rows = [
        {
            **to_problem(puzzle, puzzle.numbers, f"p{place}")._asdict(),
            "problem_id": f"p{place}",
            "sample_index": index,
            "completion": completion,
        }
        for place, puzzle in enumerate(chosen)
        for index, completion in enumerate(completions(puzzle))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def recorded_study(tiny_config, tmp_path):
    """A study's folder with two evaluated and recorded sets of rollouts: one fails, one solves."""
    files = {
        "fails": rollouts_file(tmp_path / "fails.jsonl", lambda p: ["1 + 1 = 2 + 1 = 3"] * 4),
        "solves": rollouts_file(tmp_path / "solves.jsonl", lambda p: map(str, p.solutions[:4])),
    }
    study = tiny_config.study.model_copy(update={"rollouts": files})
    config = tiny_config.model_copy(update={"name": "cases-study", "study": study})
    root = tmp_path / "runs"
    begin_study(root, config, run(root, prepared(config)))
    runs = {name: rollouts_run(config, name) for name in files}
    scores = {name: run(root, planned.score) for name, planned in runs.items()}
    end_study(root, config, scores=scores, trainings={}, files={})
    graded = {name: run(root, planned.score.inputs["graded"]) for name, planned in runs.items()}
    return root, graded


def test_the_page_becomes_an_artifact_of_bs_run_in_a_real_mlflow_store(
    recorded_study, monkeypatch, capsys, tmp_path
):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    from rsgrpo.tracking.sender import sync

    root, graded = recorded_study
    sync(root)
    page = tmp_path / "cases.md"
    words = ("cases", graded["fails"], graded["solves"], "-o", page)
    status, out, err = rsgrpo(monkeypatch, capsys, *words)
    assert (status, out) == (0, f"{page}: 5 of 5 prompts\n")
    assert f"recorded for MLflow: {root / 'cases' / 'cases-'}" in err
    assert rsgrpo(monkeypatch, capsys, *words)[0] == 0  # again: the same page, once
    assert sync(root).missing == ()
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("rsgrpo")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert runs["solves evaluation"].info.status == "FINISHED"
    (stored,) = client.list_artifacts(runs["solves evaluation"].info.run_id, "cases")
    assert client.list_artifacts(runs["fails evaluation"].info.run_id, "cases") == []
    fetched = client.download_artifacts(
        runs["solves evaluation"].info.run_id, stored.path, str(tmp_path)
    )
    with open(fetched, encoding="utf-8") as file:
        assert file.read() == page.read_text("utf-8")
    assert "**new strategy**" in page.read_text("utf-8")


@pytest.mark.slow
def test_files_of_no_study_are_recorded_where_a_root_is_named(
    write_graded, monkeypatch, capsys, tmp_path
):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    from rsgrpo.tracking.sender import sync

    root = tmp_path / "runs"
    a = write_graded("a", {"p": [("1", "incorrect")]})
    b = write_graded("b", {"p": [("42", "correct")]})
    words = ("cases", a, b, "--root", root)
    status, _, err = rsgrpo(monkeypatch, capsys, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert "runs is not a folder" in err
    root.mkdir()
    status, page, _ = rsgrpo(monkeypatch, capsys, *words)
    assert status == 0
    sync(root)
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    (only,) = client.search_runs([client.get_experiment_by_name("rsgrpo").experiment_id])
    assert only.info.run_name == "cases a b"
    assert (only.data.tags["a"], only.data.tags["b"]) == ("a", "b")
    (stored,) = client.list_artifacts(only.info.run_id, "cases")
    shutil.rmtree(root / "cases")
    fetched = client.download_artifacts(only.info.run_id, stored.path, str(tmp_path))
    with open(fetched, encoding="utf-8") as file:
        assert file.read() == page
