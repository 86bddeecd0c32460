"""`rsgrpo doctor`: what this machine has and lacks for each part, and what to do about it."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from flows.services import HOST, addresses, answers

FREE_GIB = 5.0


class Check(NamedTuple):
    """One thing that was looked at: `advice` says what to do where it is not well."""

    name: str
    well: bool
    found: str
    advice: str = ""


def examine(root: Path, home: Path, prefect_port: int, mlflow_port: int) -> Iterator[Check]:
    """Look at everything, one check after the other.

    Args:
        root: The output root.
        home: The services' folder.
        prefect_port: The Prefect server's port.
        mlflow_port: The MLflow server's port.
    """
    yield check_python()
    yield from check_packages()
    yield check_gpu()
    yield check_disk(root)
    at = addresses(prefect_port, mlflow_port)
    yield check_port("Prefect", prefect_port, f"{at.prefect_api}/health")
    yield check_port("MLflow", mlflow_port, f"{at.mlflow}/health")
    for store in (home / "prefect" / "prefect.db", home / "mlflow.db", root / "optuna.db"):
        if store.exists():
            yield check_store(store)


def check_python() -> Check:
    """Check the interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    well = (3, 11) <= sys.version_info < (3, 14)
    return Check("python", well, found, "use Python 3.11 to 3.13")


def check_packages() -> Iterator[Check]:
    """Check every package that an extra needs: there, and of a version that works."""
    from packaging.requirements import Requirement

    for text in requires("rsgrpo") or ():
        wanted = Requirement(text)
        if wanted.marker and "'dev'" in str(wanted.marker).replace('"', "'"):
            continue
        if wanted.name != "rsgrpo":
            extra = re.search(r"extra == .(\w+)", str(wanted.marker))
            yield _check_package(wanted.name, str(wanted.specifier), extra[1] if extra else "")


def _check_package(name: str, specifier: str, extra: str = "") -> Check:
    from packaging.specifiers import SpecifierSet

    try:
        found = version(name)
    except PackageNotFoundError:
        target = f".[{extra}]" if extra else "."
        return Check(name, False, "not installed", f"pip install -e '{target}'")
    well = SpecifierSet(specifier).contains(found, prereleases=True)
    return Check(name, well, found, f"install {name}{specifier} (make install does)")


def check_gpu() -> Check:
    """Report the GPUs that the driver sees; none is no fault."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("gpu", True, "none: training runs on the processor")
    query = [tool, "--query-gpu=name,memory.free", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    found = "; ".join(done.stdout.strip().splitlines()) or done.stderr.strip()
    return Check("gpu", done.returncode == 0, found, "mend the driver: nvidia-smi fails")


def check_disk(root: Path) -> Check:
    """Check the space on the disk that takes results."""
    there = next(
        folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(there).free / 2**30
    advice = f"free some space: less than {FREE_GIB:.0f} GiB is left for checkpoints and samples"
    return Check("disk", free >= FREE_GIB, f"{free:.1f} GiB free at {there}", advice)


def check_port(name: str, port: int, health: str) -> Check:
    """Check that a port is free, or that the service it is for answers there."""
    if answers(health):
        return Check(name, True, f"answers on {HOST}:{port}")
    with closing(socket.socket()) as probe:
        taken = probe.connect_ex((HOST, port)) == 0
    advice = f"stop what listens there, or choose another port with --{name.lower()}-port"
    found = "taken by another program" if taken else "free: `rsgrpo up` starts it"
    return Check(name, not taken, f"port {port} {found}", advice)


def check_store(store: Path) -> Check:
    """Check that a database can be read whole."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            [found] = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as fault:
        found = str(fault)
    advice = (
        "move the file away; spools and manifests hold everything, `rsgrpo sync` ships it again"
    )
    return Check(str(store), found == "ok", str(found), advice)
