"""The stages there are: what each one runs, and what its result depends on."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """What a stage runs and what its result depends on.

    `function` is `module:name`; `branches` are the parts of the config that it reads, `rooms` the
    files and folders of the package and `packages` the distributions that it runs on.
    """

    function: str
    branches: tuple[str, ...]
    rooms: tuple[str, ...]
    packages: tuple[str, ...] = ()


_TORCH = ("torch", "transformers")
_POLICY = ("policy/load.py", "policy/prompts.py", "policy/tiny.py")
_PROBLEMS = ("data/countdown.py", "data/jsonl.py")

STAGES: dict[str, Stage] = {
    "prepare": Stage(
        "rsgrpo.data.prepare:prepare",
        ("data",),
        (*_PROBLEMS, "data/prepare.py", "data/duplicates.py", "data/overlap.py", "records.py"),
        ("datasketch",),
    ),
    "pretrain": Stage("rsgrpo.policy.tiny:pretrain", ("policy",), (*_POLICY, *_PROBLEMS), _TORCH),
    "train": Stage(
        "rsgrpo.training.train:train",
        ("training", "grading", "prompt"),
        ("training", "advantages", "schedules.py", "grading", *_POLICY, *_PROBLEMS),
        (*_TORCH, "trl", "accelerate", "math-verify"),
    ),
    "sample": Stage(
        "rsgrpo.sampling.sample:sample_stage",
        ("sampling", "prompt"),
        ("sampling", "policy/load.py", "policy/prompts.py"),
        _TORCH,
    ),
    "grade": Stage(
        "rsgrpo.grading.stage:grade_stage",
        ("grading", "sampling"),
        ("grading", "sampling/store.py", "data/countdown.py"),
        ("math-verify",),
    ),
    "grade_rollouts": Stage(
        "rsgrpo.grading.stage:grade_rollouts_stage", ("grading",), ("grading",), ("math-verify",)
    ),
    "score": Stage(
        "rsgrpo.evaluation.score:score",
        ("evaluation", "grading"),
        ("evaluation", "data/countdown.py", "grading/normalise.py"),
    ),
    "analyse": Stage(
        "rsgrpo.analyses.analyse:analyse",
        ("data", "evaluation", "study", "sampling"),
        ("evaluation", "analyses", "grading/normalise.py"),
    ),
}
