"""Which study a command means: its storage, its root, its name. Nothing is made by looking."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsgrpo.errors import UserError, unknown

if TYPE_CHECKING:
    from sweeps.space import Sweep
    from sweeps.study import Opened

# That of sweeps.storage, which is not imported before a verb runs.
_STORAGE = "RSGRPO_STORAGE"

StudyName = Annotated[
    str | None,
    typer.Option("--study-name", help="The study; may be left out where the storage has one."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=_STORAGE,
        show_envvar=True,
        help="sqlite:///FILE, postgresql://..., journal:FILE; ROOT's optuna.db by default.",
    ),
]
RootName = Annotated[
    str | None,
    typer.Option("--root", help="Output root, a name of the worker's table; the study knows its."),
]


def named_root(root: str | None) -> Path:
    """Return the folder of an output root, `default` where none is named.

    Raises:
        UserError: The worker's table does not have it.
    """
    from rsgrpo.worker import Execution, resolve

    return resolve(Execution(root=root or "default")).root


def named_storage(storage: str | None, root: str | None) -> str:
    """Return the storage that is meant: the one given, else that of the root."""
    from sweeps.storage import default_storage

    return storage or default_storage(named_root(root))


def open_study(name: str | None, storage: str | None, root: str | None) -> Opened:
    """Open a study that is there, and make nothing.

    Args:
        name: Its name; None where the storage has one study alone.
        storage: As it was given; None for the root's own.
        root: The output root's name; None for the one that the study names.

    Raises:
        UserError: There is no such storage or study, or no name is given and there are several.
    """
    from sweeps.storage import shown
    from sweeps.study import load

    text = named_storage(storage, root)
    names = study_names(text)
    if not names:
        raise UserError(_nothing_in(text))
    if name is None:
        if len(names) > 1:
            raise UserError(
                f"the storage {shown(text)} has {len(names)} studies ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}): name one with --study-name"
            )
        name = names[0]
    if name not in names:
        raise UserError(f"{unknown('study', name, names)} (in {shown(text)})")
    return load(text, name, named_root(root) if root else None)


def study_names(storage: str) -> list[str]:
    """Return the names of a storage's studies in order; none where there is no storage.

    Raises:
        UserError: The storage is of no known kind or does not answer.
    """
    if not _is_there(storage):
        return []
    import optuna

    from sweeps.storage import open_storage

    return sorted(optuna.get_all_study_names(open_storage(storage)))


def first_difference(attributes: Mapping[str, Any], plan: Sweep) -> str:
    """Return the first key, with both values, in which a study differs from a sweep; "" if none.

    Args:
        attributes: The study's; one whose creation was interrupted may lack some.
        plan: The sweep.
    """
    from sweeps.study import CONFIG, SWEEP

    asked = {CONFIG: plan.config.model_dump(mode="json"), SWEEP: plan.sweep.model_dump(mode="json")}
    for name, prefix in ((CONFIG, ""), (SWEEP, "sweep")):
        if name in attributes:
            for difference in _differences(json.loads(attributes[name]), asked[name], prefix):
                return difference
    return ""


def _differences(there: Any, asked: Any, prefix: str) -> Iterator[str]:
    from rsgrpo.config import flatten

    old, new = dict(flatten(there, prefix)), dict(flatten(asked, prefix))
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            yield f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"


def _is_there(storage: str) -> bool:
    if storage.startswith("sqlite:///"):
        return _has_studies(Path(storage.removeprefix("sqlite:///")))
    if "://" in storage:
        return True
    return Path(storage.removeprefix("journal:")).exists()


def _has_studies(file: Path) -> bool:
    """Return whether a database has Optuna's tables; opening one without would make them in it."""
    import sqlite3

    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("select 1 from sqlite_master where name = 'studies'")
            return found.fetchone() is not None
    except sqlite3.Error as fault:
        raise UserError(
            f"the storage {file} cannot be read ({fault}): name another with --storage"
        ) from None


def _nothing_in(storage: str) -> str:
    from sweeps.storage import shown

    return (
        f"there is no study in {shown(storage)}: make one with `rsgrpo sweep create`, or name "
        "another storage with --storage"
    )
