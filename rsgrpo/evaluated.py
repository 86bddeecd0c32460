"""What `rsgrpo evaluate` evaluates: the config and the run that its arguments add up to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.stages import read_manifest
from rsgrpo.study import Run, base_policy, base_run, rollouts_run

# The paper's evaluation; configs/ has it too and is not in a wheel.
SIX_BENCHMARKS = Path(__file__).with_name("six_benchmarks.yaml")


class Asked(NamedTuple):
    """The arguments of one evaluation.

    `model` is the folder of a training run or a checkpoint, a hub id, or the name under which
    `servers` serve it; `rollouts` a file of completions made elsewhere. `samples` draws as many for
    every benchmark.
    """

    model: str | None = None
    samples: int | None = None
    limit: int | None = None
    benchmarks: Sequence[str] = ()
    servers: Sequence[str] = ()
    rollouts: Path | None = None


def evaluation_config(
    asked: Asked, files: Sequence[Path] | None, overrides: Sequence[str]
) -> Config:
    """Return the config of an evaluation.

    Without files it is the embedded Countdown task's for the policy that is trained here and for
    the runs that start from it, and the paper's six benchmarks for everything else.

    Args:
        asked: What to evaluate.
        files: The user's YAML files.
        overrides: The user's `dotted.key=value`, over which `asked` wins.

    Raises:
        UserError: As in `load_config`; arguments contradict each other, or there is no such model.
    """
    _refuse_contradictions(asked)
    manifest = _manifest(asked.model)
    if manifest is None and not asked.servers:
        _refuse_other_folder(asked.model)
    paths, changed = list(files or ()), [*overrides]
    if not paths:
        own = {} if manifest is None else manifest["depends_on"]["config"]
        if not _is_countdown(asked, manifest):
            paths = [SIX_BENCHMARKS]
        changed = [*_kept(own), *overrides]
    changed += _overrides(asked)
    config = load_config(paths or None, changed)
    if asked.servers and not config.policy.checkpoint:
        raise UserError("--server needs the policy that is served: name it as MODEL")
    if (
        asked.servers
        and asked.model
        and not config.serving.model
        and not Path(asked.model).exists()
    ):
        changed.append(_override("serving.model", asked.model))
        return load_config(paths or None, changed)
    return config


def evaluated_run(config: Config, asked: Asked) -> Run:
    """Return the run whose score is asked for."""
    if asked.rollouts:
        return rollouts_run(config, _rollouts_name(asked.rollouts))
    return base_run(config, base_policy(config))


def evaluated_training(root: Path, config: Config, run: Run) -> dict[str, Path]:
    """Return the training that made the policy of an evaluation, where a root holds it.

    Args:
        root: The --out folder of the evaluation.
        config: Its config.
        run: What is evaluated.

    Returns:
        `{policy's name: folder of its training}`, or nothing.
    """
    folder = Path(config.policy.checkpoint or "").resolve()
    if run.identity["method"] == "rollouts" or folder.parent != (root / "train").resolve():
        return {}
    return {run.name: folder}


def _overrides(asked: Asked) -> Iterator[str]:
    if asked.model:
        yield _override("policy.checkpoint", asked.model)
    if asked.samples:
        yield _override("sampling.n", asked.samples)
        yield _override("sampling.n_of", {})
    if asked.limit:
        yield _override("sampling.limit", asked.limit)
    if asked.benchmarks:
        yield _override("sampling.benchmarks", list(asked.benchmarks))
    if asked.servers:
        yield _override("sampling.backend", "server")
        yield _override("serving.urls", list(asked.servers))
    if asked.rollouts:
        name = _rollouts_name(asked.rollouts)
        yield _override("study.rollouts", {name: str(asked.rollouts)})


def _kept(own: dict[str, Any]) -> Iterator[str]:
    """Yield how a run was prompted and graded while it was trained."""
    for branch in ("prompt", "grading"):
        if branch in own:
            yield _override(branch, own[branch])


def _override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def _rollouts_name(file: Path) -> str:
    return re.sub(r"[^\w-]", "-", file.stem)


def _is_countdown(asked: Asked, manifest: dict[str, Any] | None) -> bool:
    if manifest is None:
        return asked.model is None and asked.rollouts is None
    grading = manifest["depends_on"]["config"].get("grading", {})
    return manifest["stage"] == "pretrain" or bool(grading.get("verifier") == "countdown")


def _manifest(model: str | None) -> dict[str, Any] | None:
    """Return the manifest of a policy that was trained here; None for any other."""
    if model is None:
        return None
    folder = Path(model)
    if not folder.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise UserError(f"{model} does not exist: name a policy's folder or a hub id")
    if folder.is_file():
        raise UserError(f"{model} is a file, not a policy: name a policy's folder or a hub id")
    manifest = read_manifest(folder)
    if manifest and manifest["stage"] not in ("train", "pretrain"):
        raise UserError(
            f"{model} is the folder of stage {manifest['stage']}, not of a policy: name one below "
            "train/"
        )
    return manifest


def _refuse_other_folder(model: str | None) -> None:
    if model and Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} holds no policy (config.json): name a policy's folder")


def _refuse_contradictions(asked: Asked) -> None:
    if not asked.rollouts:
        return
    drawn = {
        "MODEL": asked.model,
        "--samples": asked.samples,
        "--limit": asked.limit,
        "--benchmarks": asked.benchmarks,
        "--server": asked.servers,
    }
    for name, value in drawn.items():
        if value:
            raise UserError(f"--rollouts are drawn already: leave {name} out")
