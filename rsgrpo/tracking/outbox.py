"""What still has to be shipped: spools under a folder, read as they grow and sorted by run.

What a step drew, prompt by prompt (`draws`), stays in the spool: MLflow has no use for it.
A resumed trainer repeats the steps after its last checkpoint. The first record of a (run, step,
name) is the one that counts, here and in `metrics.parquet`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rsgrpo.tracking.spool import SPOOL_NAME, read_from, read_spool

Record = dict[str, Any]

ARTIFACTS_NAME = "mlartifacts"


class Point(NamedTuple):
    """One number of one step; `time` in milliseconds since 1970."""

    step: int
    metric: str
    value: float
    time: int


@dataclass
class Parcel:
    """What one spool newly says of one run.

    `last` is the newest record that begins or ends the run, None where there is none. `first` is
    true where nothing is known to have been shipped of this spool before.
    """

    run: str
    spool: Path
    first: bool = False
    start: Record | None = None
    last: Record | None = None
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    tables: list[Record] = field(default_factory=list)
    artifacts: list[Record] = field(default_factory=list)
    datasets: list[Record] = field(default_factory=list)

    def locate(self, artifact: Record) -> Path:
        """Return where a recorded artifact lies on disk."""
        return self.spool.parent / str(artifact["path"])


class FirstOccurrences:
    """Lets the first record of each (run, step, name) pass and no later one."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._steps: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)

    def points(self, record: Record) -> list[Point]:
        """Return the numbers of a metrics record that were not seen before."""
        step, written_at = record["step"], record["time"]
        return [
            Point(step, metric, value, written_at)
            for metric, value in record["values"].items()
            if self._first("metric", record["run"], metric, step)
        ]

    def table(self, record: Record) -> bool:
        """Say whether a table record is the first of its step."""
        return self._first("table", record["run"], record["name"], record["step"])

    def _first(self, kind: str, run: str, name: str, step: int) -> bool:
        steps = self._steps[kind, run, name]
        if step in steps:
            return False
        steps.add(step)
        return True


def find_spools(root: Path) -> list[Path]:
    """Return every spool under `root`, sorted, leaving out hidden folders and stored artifacts.

    Args:
        root: The folder to look in.
    """
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name != ARTIFACTS_NAME and name[0] != "."]
        if SPOOL_NAME in files:
            found.append(Path(folder) / SPOOL_NAME)
    return sorted(found)


class Outbox:
    """Reads every spool under `root`, each line once, and hands out what is not shipped yet.

    `starts` holds the first record that begins each run, for links to runs above.
    """

    def __init__(self, root: Path) -> None:
        """Begin at the first byte of every spool: what was shipped earlier is needed to know it."""
        self.root = root
        self.starts: dict[str, Record] = {}
        self._read: dict[str, int] = {}
        self._firsts = FirstOccurrences()

    def collect(self, shipped: dict[str, int]) -> dict[str, list[Parcel]]:
        """Read what the spools have gained.

        Args:
            shipped: Spool path relative to the root -> bytes already shipped; lines up to there
                are remembered and not handed out.

        Returns:
            Spool path -> its parcels, one for each run, for spools with something to ship.
        """
        gained = {}
        for path in find_spools(self.root):
            name = path.relative_to(self.root).as_posix()
            parcels = self._collect_one(path, name, shipped.get(name, 0))
            if parcels:
                gained[name] = parcels
        return gained

    def position(self, name: str) -> int:
        """Return how many bytes of the spool called `name` have been read."""
        return self._read[name]

    def _collect_one(self, path: Path, name: str, shipped: int) -> list[Parcel]:
        parcels: dict[str, Parcel] = {}
        size = path.stat().st_size
        # A spool shorter than what is known of it was begun anew.
        shipped = shipped if shipped <= size else 0
        self._read[name] = self._read.get(name, 0) if self._read.get(name, 0) <= size else 0
        for end, record in read_from(path, self._read[name]):
            self._read[name] = end
            if record is not None:
                parcel = Parcel(record["run"], path, first=shipped == 0)
                if end > shipped:
                    parcel = parcels.setdefault(parcel.run, parcel)
                self._sort(record, parcel)
        return list(parcels.values())

    def _sort(self, record: Record, parcel: Parcel) -> None:
        kind = record["kind"]
        if kind == "start":
            self.starts.setdefault(record["run"], record)
            parcel.start = parcel.last = record
        elif kind == "end":
            parcel.last = record
        elif kind == "metrics":
            parcel.points += self._firsts.points(record)
        elif kind == "table" and self._firsts.table(record):
            parcel.tables.append(record)
        elif kind == "artifact":
            parcel.artifacts.append(record)
        elif kind == "dataset":
            parcel.datasets.append(record)
        elif kind == "tags":
            parcel.tags |= record["tags"]


def all_points(spool: Path, run: str) -> Iterator[Point]:
    """Yield every number that `spool` holds of `run`, the first of each step and name.

    Args:
        spool: The spool's path.
        run: The run's id.

    Raises:
        OSError: The spool cannot be read.
    """
    firsts = FirstOccurrences()
    for record in read_spool(spool):
        if record["kind"] == "metrics" and record["run"] == run:
            yield from firsts.points(record)


def write_points(points: Iterator[Point], path: Path) -> None:
    """Write numbers to a Parquet file with the columns step, metric, value and time.

    Args:
        points: The numbers.
        path: The file to write.

    Raises:
        OSError: The file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    types = {"step": pa.int64(), "metric": pa.string(), "value": pa.float64(), "time": pa.int64()}
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for point in points:
        for name, value in point._asdict().items():
            columns[name].append(value)
    parquet.write_table(pa.table(columns, schema=pa.schema(list(types.items()))), path)
