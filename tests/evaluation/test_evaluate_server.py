"""`rsgrpo evaluate MODEL --server URL`: a served policy, and a server that gives up midway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsgrpo.data.jsonl import write_rows
from rsgrpo.errors import UserError
from rsgrpo.evaluation.commands import evaluate
from tests.sampling.small_server import completion, small_server

SAMPLES, PROBLEMS = 8, 3


def answered(body: dict[str, Any]) -> tuple[int, bytes]:
    """Half of the completions are right."""
    answer = completion(body)
    for choice in answer["choices"]:
        right = (body["seed"] + choice["index"]) % 2
        choice["text"] = f"It is $\\boxed{{{4 if right else 5}}}$."
    return 200, json.dumps(answer).encode()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [
        {"id": str(at), "problem": f"{at} + {4 - at} = ?", "answer": "4"} for at in range(PROBLEMS)
    ]
    write_rows(tmp_path / "sums.jsonl", rows)
    tree = {
        "name": "served",
        "data": {"source": "jsonl", "benchmarks": {"sums": "sums.jsonl"}},
        "sampling": {"split": "test", "batch_size": 4, "max_new_tokens": 8},
        "serving": {"in_flight": 1, "retries": 0},
        "grading": {"verifier": "math_verify"},
        "evaluation": {"ks": [1, 8], "headline_k": 8, "resamples": 200},
    }
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "study.yaml"


def evaluated(study: Path, url: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"samples": SAMPLES, "server": [url], "out": study.parent / "runs"}
    evaluate(str(study.parent / "policy"), config=[study], as_json=True, **options)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_served_policy_is_sampled_graded_and_scored(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_server(answered) as server:
        rows = evaluated(study, server.url, capsys)
        assert {body["model"] for body in server.requests} == {"tiny"}
        assert sum(body["n"] for body in server.requests) == SAMPLES * PROBLEMS
    for row in rows:
        assert (row["benchmark"], row["n_samples"], row["n_prompts"]) == ("sums", 8, PROBLEMS)
        assert 0 < row["value"] <= 1


def test_what_a_server_drew_before_it_failed_is_kept_and_the_same_command_goes_on(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_server(answered) as server:
        runs = study.parent / "runs"

        def fails_after_a_part(body: dict[str, Any]) -> tuple[int, bytes]:
            return (500, b"gone") if list(runs.glob("sample/*/*/part-*")) else answered(body)

        server.behave = fails_after_a_part
        with pytest.raises(UserError, match="HTTP 500") as fault:
            evaluated(study, server.url, capsys)
        assert server.url in str(fault.value) and "\n" not in str(fault.value)
        parts = {file: file.stat().st_mtime_ns for file in runs.glob("sample/*/*/part-*")}
        assert parts
        server.behave = answered
        server.requests.clear()
        rows = evaluated(study, server.url, capsys)
        drawn = sum(body["n"] for body in server.requests)
        assert 0 < drawn < SAMPLES * PROBLEMS
        assert {file: file.stat().st_mtime_ns for file in parts} == parts
    assert {row["n_samples"] for row in rows} == {SAMPLES}
