"""What a whole study says about itself: its parent run, and an evaluation for each policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rsgrpo.config import Config, flatten
from rsgrpo.tracking.environment import environment_snapshot
from rsgrpo.tracking.outbox import find_spools
from rsgrpo.tracking.progress import PROGRESS_NAME
from rsgrpo.tracking.spool import SPOOL_NAME, Spool, read_spool


def begin_study(root: Path, config: Config, dataset: Path | None) -> None:
    """Record the study's run: its config, the code and machine that it runs on, its data.

    Args:
        root: The study's folder, which gets a spool of its own.
        config: The study.
        dataset: The output folder of the prepare stage, with `dataset.json`; None where no problem
            of the config is used.
    """
    with Spool(root / SPOOL_NAME, config.name) as spool:
        spool.start(
            config.name,
            config.name,
            tags={"stage": "study"},
            params=dict(flatten(config.model_dump(mode="json"))),
        )
        record_environment(spool, root / "environment", config)
        if dataset:
            record_dataset(spool, dataset)


def record_environment(spool: Spool, folder: Path, config: Config) -> None:
    """Write config, commit, uncommitted changes, packages and machine as files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = environment_snapshot()
    (folder / "pip-freeze.txt").write_text(snapshot.pop("pip_freeze"), encoding="utf-8")
    (folder / "uncommitted.diff").write_text(snapshot.pop("git_diff"), encoding="utf-8")
    (folder / "machine.json").write_text(json.dumps(snapshot, indent=1), encoding="utf-8")
    tree = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / "config.yaml").write_text(tree, encoding="utf-8")
    for file in sorted(folder.iterdir()):
        spool.artifact(file, folder.name)


def record_dataset(spool: Spool, prepared: Path) -> None:
    """Record each file of the prepared data with its rows and digest."""
    identity = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    for name, file in identity.items():
        spool.dataset(name, file["sha256"][:32], file["rows"], str(prepared / name))


def end_study(
    root: Path,
    config: Config,
    scores: Mapping[str, Path],
    trainings: Mapping[str, Path],
    files: Mapping[str, Path],
) -> None:
    """Record each policy's evaluation below its run, and the study's results; once for each.

    Args:
        root: The study's folder.
        config: The study.
        scores: The score stage's folder of each policy.
        trainings: The train stage's folder of each policy that was trained.
        files: Result files of the whole study by artifact folder.
    """
    known = _recorded(root / SPOOL_NAME)
    for policy, folder in scores.items():
        run = f"{folder.name}-evaluation"
        if run not in known:
            above = trainings.get(policy)
            parent = training_run(policy, above) if above else config.name
            with Spool(root / SPOOL_NAME, run) as spool:
                _record_evaluation(spool, config, policy, parent, folder)
    with Spool(root / SPOOL_NAME, config.name) as spool:
        for folder_name, file in files.items():
            spool.artifact(file, folder_name)
        spool.end()


def training_run(policy: str, folder: Path) -> str:
    """Return the lasting id of a training run: its policy and the key of its stage."""
    return f"{policy}-{folder.name.rpartition('-')[2]}"


def all_shipped(root: Path) -> bool:
    """Return whether every spool below a root has been sent to some store, whole.

    Reads the sender's own notes; without them the answer is no.
    """
    notes = root / PROGRESS_NAME
    if not notes.exists() or not (root / "mlflow.db").exists():
        return False
    stores = json.loads(notes.read_text(encoding="utf-8")).values()
    sizes = {f.relative_to(root).as_posix(): f.stat().st_size for f in find_spools(root)}
    return any(all(sent.get(name) == size for name, size in sizes.items()) for sent in stores)


def _recorded(path: Path) -> set[str]:
    records = read_spool(path) if path.exists() else []
    return {record["run"] for record in records if record["kind"] == "end"}


def _record_evaluation(
    spool: Spool, config: Config, policy: str, parent: str, folder: Path
) -> None:
    rows = json.loads((folder / "passk.json").read_text(encoding="utf-8"))
    tags = {key: str(rows[0][key]) for key in ("policy", "method", "risk_beta", "seed")}
    spool.start(f"{policy} evaluation", config.name, parent, {**tags, "stage": "evaluation"})
    values = {
        f"{row['benchmark']}/pass_at_{row['k']}": row["pass_at_k"]
        for row in rows
        if row["pass_at_k"] is not None
    }
    files = [folder / name for name in ("passk.json", "statistics.json", "prompts.parquet")]
    if files[1].exists():
        statistics = json.loads(files[1].read_text(encoding="utf-8"))
        values |= {_metric_name(row): row["value"] for row in statistics}
    spool.metrics(0, values)
    for file in files:
        if file.exists():
            spool.artifact(file, "scores")
    spool.end()


def _metric_name(row: Mapping[str, Any]) -> str:
    """Return `aime24/maj_at_8`: MLflow's names have no brackets, so a mean's count says which."""
    benchmark = row["benchmark"].partition(" (")[0].replace(" ", "_")
    metric = row["metric"].partition("@")[0]
    return f"{benchmark}/{metric}_at_{'n' if row['k'] is None else row['k']}"
