"""The verdicts on every shared rollout against a parse and a verify of its own."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from rsgrpo.grading.extract import extract_answer
from rsgrpo.grading.pool import GradingPool
from rsgrpo.records import Answer

FILES = ("gsm8k_examples_500x4", "qwen25math_cot100x8", "qwen3_4b_base_math500_100x4")
ROWS = {
    "gsm8k_examples_500x4": 2000,
    "qwen25math_cot100x8": 800,
    "qwen3_4b_base_math500_100x4": 400,
}


@cache
def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text))


def plain(answer: Answer, mode: Literal["boxed", "full"]) -> bool:
    from math_verify import verify

    text = extract_answer(answer.completion, mode)
    if text is None:
        return False
    whole = f"\\boxed{{{text}}}" if mode == "boxed" else text
    return bool(verify(_parse(f"\\boxed{{{answer.answer}}}"), _parse(whole)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["boxed", "full"])
@pytest.mark.parametrize("name", FILES)
def test_verdicts_equal_plain_math_verify_on_every_shared_rollout(
    name: str, mode: Literal["boxed", "full"], shared_data: Path
) -> None:
    text = (shared_data / "rollouts" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    answers = [Answer(**{key: row[key] for key in row if key in Answer._fields}) for row in rows]
    assert len(answers) == ROWS[name]
    with GradingPool(extract=mode, workers=2) as pool:
        verdicts = pool.grade(answers)
    differing = [
        (row.problem_id, row.sample_index, verdict)
        for row, verdict in zip(answers, verdicts, strict=True)
        if verdict.correct != plain(row, mode)
    ]
    assert differing == []
    assert not {verdict.verdict for verdict in verdicts} & {"timeout", "error"}
