"""Small sweeps as tests make them: real studies, real scores of hand-written answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rsgrpo.evaluation.score import score
from sweeps.space import encoded, load_sweep, suggest, trial_config
from sweeps.study import Opened, create
from sweeps.telling import Account, tell_failed, tell_pruned, tell_values
from sweeps.values import score_metrics

Answers = Mapping[tuple[str, str], str]

PLAN: dict[str, Any] = {
    "name": "small",
    "data": {"source": "jsonl", "benchmarks": {"aime": "aime.jsonl", "math": "math.jsonl"}},
    "policy": {"checkpoint": "someone/policy"},
    "grading": {"verifier": "math_verify"},
    "sampling": {"n": 4},
    "evaluation": {"ks": [1, 2, 4], "headline_k": 2, "resamples": 400},
    "sweep": {
        "space": {"training.risk_beta": {"values": [0.0, 2.0, 4.0, 8.0]}},
        "seeds": [0, 1],
        "objectives": ["pass_at_2"],
    },
}


def sweep_file(folder: Path, **changes: Any) -> Path:
    """Write the small sweep as YAML; `changes` are laid over its branch `sweep`."""
    tree = {**PLAN, "sweep": {**PLAN["sweep"], **changes}}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def made(folder: Path, **changes: Any) -> Opened:
    """Make the small sweep's study in `folder`/root/optuna.db."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    plan = load_sweep(sweep_file(folder, **changes))
    return create(plan, f"sqlite:///{root / 'optuna.db'}", "small", root)


def asked(opened: Opened, point: Mapping[str, Any]) -> optuna.Trial:
    """Ask for a trial of a point, as a coordinator would."""
    opened.study.enqueue_trial(encoded(point))
    trial = opened.study.ask()
    suggest(trial, opened.plan.sweep)
    seeds = opened.plan.sweep.seeds
    trial.set_user_attr("seeds", list(seeds))
    config = trial_config(opened.plan.config, point, seeds[0])
    trial.set_user_attr("config", config.model_dump_json())
    return trial


def complete(
    opened: Opened,
    point: Mapping[str, Any],
    answers_by_seed: Mapping[int, Answers],
    *,
    further: Mapping[int, Mapping[str, float]] | None = None,
    base: Mapping[str, float] | None = None,
) -> int:
    """Add a trial whose seeds gave these answers, a letter for each: `c` is correct."""
    trial = asked(opened, point)
    metrics, scores = {}, {}
    for seed, answers in answers_by_seed.items():
        folder = opened.root / "score" / f"trial{trial.number}-seed{seed}"
        write_score(folder, opened, answers)
        metrics[seed] = {
            **score_metrics(folder, opened.plan.config),
            **(further or {}).get(seed, {}),
        }
        scores[str(seed)] = folder.relative_to(opened.root).as_posix()
    tell_values(opened, trial, metrics, base or {}, Account({}, scores, 1000))
    return trial.number


def failed(opened: Opened, point: Mapping[str, Any], reason: str) -> int:
    """Add a trial that failed."""
    trial = asked(opened, point)
    tell_failed(opened, trial, reason, Account({}, {}, 10))
    return trial.number


def pruned(opened: Opened, point: Mapping[str, Any], reason: str) -> int:
    """Add a trial that was ended early."""
    trial = asked(opened, point)
    tell_pruned(opened, trial, reason, Account({}, {}, 100))
    return trial.number


def write_score(folder: Path, opened: Opened, answers: Answers) -> Path:
    """Have the stage `score` score answers."""
    rows = [
        {
            "benchmark": benchmark,
            "problem_id": problem,
            "problem": problem,
            "sample_index": index,
            "completion": letter,
            "extracted": "" if letter == "-" else letter,
            "verdict": {"c": "correct", "-": "no_answer"}.get(letter, "incorrect"),
            "correct": letter == "c",
        }
        for (benchmark, problem), letters in answers.items()
        for index, letter in enumerate(letters)
    ]
    graded = folder.parent.parent / "grade" / folder.name
    graded.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), graded / "graded.parquet")
    identity = {"policy": folder.name, "method": "rs_grpo", "risk_beta": None, "seed": 0}
    score(opened.plan.config, graded=graded, identity=identity, out=folder)
    return folder


def answers(aime: str, math: str) -> dict[tuple[str, str], str]:
    """Return the answers of two benchmarks; blanks part the prompts."""
    found = {("aime", f"a{at}"): letters for at, letters in enumerate(aime.split())}
    return {**found, **{("math", f"m{at}"): letters for at, letters in enumerate(math.split())}}
