"""What a whole study says about itself: its parent run, and an evaluation for each policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsgrpo.config import Config, flatten
from rsgrpo.stages import users_of
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
    write_environment(folder, config, environment_snapshot())
    for file in sorted(folder.iterdir()):
        spool.artifact(file, folder.name)


def write_environment(folder: Path, config: Config, environment: Mapping[str, str]) -> None:
    """Write config, commit, uncommitted changes, packages and machine as files of a folder.

    Args:
        folder: Made where there is none.
        config: What is run.
        environment: As `environment_snapshot` returns it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = dict(environment)
    (folder / "pip-freeze.txt").write_text(snapshot.pop("pip_freeze"), encoding="utf-8")
    (folder / "uncommitted.diff").write_text(snapshot.pop("git_diff"), encoding="utf-8")
    (folder / "machine.json").write_text(json.dumps(snapshot, indent=1), encoding="utf-8")
    tree = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / "config.yaml").write_text(tree, encoding="utf-8")


def record_dataset(spool: Spool, prepared: Path) -> None:
    """Record each file of the prepared data with its rows, digest and what it is for."""
    identity = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    for name, file in identity.items():
        source = str(prepared / name)
        spool.dataset(name, file["sha256"][:32], file["rows"], source, _context(name))


def end_study(
    root: Path,
    config: Config,
    scores: Mapping[str, Path],
    trainings: Mapping[str, Path],
    files: Mapping[str, Path],
) -> None:
    """Record each policy's evaluation below its run, and the study's results; once for each.

    What the analysis diagnosed becomes tags of the runs: `diagnosis.entropy_collapse`.

    Args:
        root: The study's folder.
        config: The study.
        scores: The score stage's folder of each policy.
        trainings: The train stage's folder of each policy that was trained.
        files: Result files of the whole study by artifact folder.
    """
    record_evaluations(root, config, scores, trainings)
    if "tables" in files:
        diagnosed = json.loads(files["tables"].read_text(encoding="utf-8"))["diagnosis"]
        for policy, folder in trainings.items():
            rows = [row for row in diagnosed if row["policy"] == policy]
            record_diagnosis(root, training_run(policy, folder), rows)
    with Spool(root / SPOOL_NAME, config.name) as spool:
        for folder_name, file in files.items():
            spool.artifact(file, folder_name)
        spool.end()


def record_evaluations(
    root: Path, config: Config, scores: Mapping[str, Path], trainings: Mapping[str, Path]
) -> None:
    """Record each policy's evaluation below its training run, or else the study's; once for each.

    Args:
        root: The study's folder.
        config: The study.
        scores: The score stage's folder of each policy.
        trainings: The train stage's folder of each policy that was trained.
    """
    known = _recorded(root / SPOOL_NAME)
    for policy, folder in scores.items():
        run = f"{folder.name}-evaluation"
        if run not in known:
            above = trainings.get(policy)
            parent = training_run(policy, above) if above else config.name
            with Spool(root / SPOOL_NAME, run) as spool:
                _record_evaluation(spool, config, policy, parent, folder)


def record_diagnosis(root: Path, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record what was diagnosed of a run as its tags, in the spool of the root.

    Args:
        root: The study's folder: finished stages below it are not written to.
        run: The lasting id of the training run.
        rows: One for each signature, with `signature`, `found` (yes, no, unknown) and `evidence`.
    """
    tags = {f"diagnosis.{row['signature']}": str(row["found"]) for row in rows}
    reasons = {f"diagnosis.{row['signature']}.evidence": str(row["evidence"]) for row in rows}
    if rows:
        with Spool(root / SPOOL_NAME, run) as spool:
            spool.tags({**tags, **reasons})


def evaluation_runs(graded: Path) -> dict[str, Path]:
    """Return the recorded evaluation runs of a graded file that a stage wrote, each with its spool.

    Args:
        graded: `ROOT/grade/NAME/graded.parquet`; any other file has no run.
    """
    folder = graded.resolve().parent
    root = folder.parent.parent
    spool = root / SPOOL_NAME
    if not spool.exists():
        return {}
    known = _recorded(spool)
    runs = [f"{score.name}-evaluation" for score in users_of(root, folder, "score")]
    return {run: spool for run in runs if run in known}


def attach(runs: Mapping[str, Path], name: str, text: str, folder: str) -> list[Path]:
    """Write a page beside each spool and record it as an artifact of the run; `sync` ships it.

    Args:
        runs: The spool of each run.
        name: File name of the page.
        text: Its content.
        folder: Where it lies, below the spool's folder and among the run's artifacts.

    Returns:
        Where it was written.

    Raises:
        OSError: The folder may not be written or its disk is full.
    """
    written = []
    for run, path in runs.items():
        place = path.parent / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        with Spool(path, run) as spool:
            spool.artifact(place, folder)
        written.append(place)
    return written


def begin_note(root: Path, run: str, name: str, tags: Mapping[str, str]) -> dict[str, Path]:
    """Record a run of its own for a result that belongs to no run of a study.

    Args:
        root: The folder whose spool takes it.
        run: The lasting id.
        name: The name shown.
        tags: Short texts.

    Returns:
        The run with its spool, for `attach`.
    """
    with Spool(root / SPOOL_NAME, run) as spool:
        spool.start(name, root.resolve().name, tags=tags)
        spool.end()
    return {run: root / SPOOL_NAME}


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


def _context(name: str) -> str:
    """Return what a file of the prepared data is for, in MLflow's words."""
    known = {"train.jsonl": "training", "corpus.jsonl": "pre-training"}
    return known.get(name, "evaluation")


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
