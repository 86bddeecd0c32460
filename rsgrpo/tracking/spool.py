"""An append-only local record of runs: all that a training process ever writes about itself.

No network, no database and no lock can slow or stop the run that is being recorded. One record is
one JSON line, written by a single call, so that a process killed mid-write spoils its own last line
and nothing else. `rsgrpo.tracking.sender` ships the records to MLflow.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

SPOOL_NAME = "spool.jsonl"

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Spool:
    """The record of one run, appended to `path`; several runs may share a file.

    A resumed run opens its spool again and appends; calling `start` again does no harm.
    """

    def __init__(self, path: Path, run: str) -> None:
        """Open `path` for appending, with its folder, for the run whose lasting id is `run`.

        Args:
            path: The spool, named `spool.jsonl` so that the sender finds it.
            run: Unique among all runs that one MLflow store will hold; no quotes or backslashes.

        Raises:
            OSError: The file may not be written; `filename` is set.
        """
        if not run or any(character in run for character in "'\"`\\"):
            raise ValueError(f"run id {run!r} must be non-empty, without quotes and backslashes")
        self.path = Path(path)
        self.run = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = _ends_mid_line(self._file)

    def start(
        self,
        name: str,
        study: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that the run begins, or goes on after an interruption.

        Args:
            name: The name shown.
            study: The study that the run belongs to.
            parent: Id of the run above: study, then trial x seed, then evaluation.
            tags: Short texts.
            params: The configuration, flattened to dotted keys; values are stored as text.
        """
        described = {"name": name, "study": study, "parent": parent}
        texts = {"tags": _texts(tags or {}), "params": _texts(params or {})}
        self._append("start", **described, **texts, time=_now_ms())

    def metrics(self, step: int, values: Mapping[str, float], time_ms: int | None = None) -> None:
        """Record the numbers of one step; NaN and infinities are kept.

        Args:
            step: The step that they belong to.
            values: Name to number; a 0-d array or tensor counts as a number.
            time_ms: Milliseconds since 1970; now by default.
        """
        written_at = _now_ms() if time_ms is None else int(time_ms)
        numbers = {name: _plain(float(value)) for name, value in values.items()}
        self._append("metrics", step=int(step), time=written_at, values=numbers)

    def table(self, name: str, step: int, data: Any) -> None:
        """Record a table, histogram or other nested value of one step.

        Args:
            name: What it shows; the same name at every step.
            step: The step that it belongs to.
            data: Nested lists and mappings; arrays become lists, NaN and infinities texts.
        """
        self._append("table", name=name, step=int(step), time=_now_ms(), data=_plain(data))

    def draws(
        self, step: int, round_: int, n: int, prompts: Sequence[str], correct: Sequence[int]
    ) -> None:
        """Record which prompts a step drew and how many of each one's samples were correct.

        Args:
            step: The generation step.
            round_: 0 for the first pass, 1, 2, ... for prompts drawn in place of silent groups.
            n: Samples of each prompt.
            prompts: The prompts' ids.
            correct: Correct samples of each.
        """
        fields = {"round": round_, "n": n, "prompts": list(prompts), "correct": list(correct)}
        self._append("draws", step=int(step), **fields)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record short texts about the run, found later; the last one of a name counts."""
        self._append("tags", tags=_texts(tags), time=_now_ms())

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record that a finished file or folder belongs to the run.

        Args:
            path: The file or folder; kept relative to the spool's folder, so both may move.
            folder: Where it appears among the run's artifacts; "" for the top.
        """
        relative = os.path.relpath(Path(path).absolute(), self.path.parent.absolute())
        self._append("artifact", path=relative, folder=folder)

    def dataset(self, name: str, digest: str, rows: int, source: str, context: str = "") -> None:
        """Record which data the run used.

        Args:
            name: The data set's name, with its split.
            digest: Hash of its content.
            rows: Its number of rows.
            source: Path or description of where it came from.
            context: What the run used it for: training, evaluation; "" where nothing is known.
        """
        known = {"name": name, "digest": digest, "rows": int(rows), "source": source}
        self._append("dataset", **known, **({"context": context} if context else {}))

    def end(self, status: Status = "FINISHED") -> None:
        """Record that the run has ended, and how."""
        self._append("end", status=status, time=_now_ms())

    def close(self) -> None:
        """Close the file; further records are refused."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Spool:
        """Return the open spool."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; the run's end is recorded by `end` alone."""
        self.close()

    def _append(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"kind": kind, "run": self.run, **fields}, allow_nan=False)
        line = (b"\n" if self._torn else b"") + text.encode() + b"\n"
        self._torn = True
        try:
            _write_whole(self._file, line)
        except OSError as fault:
            raise OSError(fault.errno, fault.strerror, str(self.path)) from fault
        self._torn = False


def read_spool(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a spool in order, without lines that a killed process left torn.

    Args:
        path: The spool.

    Returns:
        Each record as `Spool` wrote it; metric values are floats, NaN and infinities included.

    Raises:
        OSError: The file cannot be read.
    """
    for _, record in read_from(path, 0):
        if record is not None:
            yield record


def read_from(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (offset of its end in bytes, record) for each finished line from `offset` on.

    The record is None for a line that no `Spool` finished. A last line without its line end is left
    for a later call: its writer may still be at work.
    """
    with open(path, "rb") as lines:
        lines.seek(offset)
        for line in lines:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "kind" not in record:
        return None
    if record["kind"] == "metrics":
        record["values"] = {name: float(value) for name, value in record["values"].items()}
    return record


def _plain(value: Any) -> Any:
    """Return `value` in strict JSON types, which know neither NaN, infinities nor arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in values.items()}


def _ends_mid_line(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _write_whole(file: int, data: bytes) -> None:
    # The system call may stop short when the disk fills up; asking again then names the reason.
    while data:
        data = data[os.write(file, data) :]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
