"""Grading files of rollouts against plain Math-Verify, a parse and a verify for every row.

What is compared is CPU time of whole processes, children included, each started fresh: imports,
reading, workers and writing count. Plain is the same verb with its grader replaced: `parse` of the
boxed gold answer, `parse` of the last box and `verify` for each row in turn, in one process. On the
large file that would take half an hour, so the rows alone are measured on some and scaled.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rsgrpo.cli import main
from rsgrpo.grading.extract import last_boxed
from rsgrpo.grading.grade import VERIFIERS
from rsgrpo.records import Answer, Verdict

ROLLOUTS = Path(__file__).parents[1].parent / "shared" / "data" / "rollouts"
BOXED = ("qwen25math_cot100x8", "qwen3_4b_base_math500_100x4")
PROBLEMS, SAMPLES, PLAIN_ROWS, SEED, ROUNDS = 660, 1024, 2000, 0, 3
TARGET, SMALL_TARGET, TARGET_MIB = 20, 1.0, 2048

OURS = "from rsgrpo.cli import main; main()"
PLAIN = "from bench.bench_grading import grade_plainly; grade_plainly()"


class Cost(NamedTuple):
    """What a command used: CPU seconds with its children, the most memory in MiB, its output."""

    cpu: float
    mebibytes: float
    output: str


def run() -> list[str]:
    """Return the measured ratios, or one line where the shared rollouts are missing."""
    if not ROLLOUTS.is_dir():
        return [f"grading: not measured, no rollouts at {ROLLOUTS}"]
    with tempfile.TemporaryDirectory() as folder:
        return [*_large(Path(folder)), *(_small(name, Path(folder)) for name in BOXED)]


def grade_plainly() -> None:
    """Be `rsgrpo grade` with Math-Verify alone, row by row; first print what the rows cost."""

    def plain(answers: Sequence[Answer], *_: object) -> list[Verdict]:
        begin = time.process_time()
        from math_verify import parse, verify

        imported = time.process_time()
        verdicts = []
        for row in answers:
            text = last_boxed(row.completion)
            correct = text is not None and bool(
                verify(parse(f"\\boxed{{{row.answer}}}"), parse(f"\\boxed{{{text}}}"))
            )
            verdicts.append(Verdict(text or "", "correct" if correct else "incorrect", correct))
        print(time.process_time() - imported, imported - begin)
        return verdicts

    VERIFIERS["math_verify"] = plain
    main()


def _large(folder: Path) -> list[str]:
    rows = [row for name in BOXED for row in _rows(ROLLOUTS / f"{name}.jsonl")]
    large, some = folder / "large.parquet", folder / "some.jsonl"
    drawn = _resample(rows, large)
    some.write_text("".join(json.dumps(row) + "\n" for row in drawn), encoding="utf-8")
    plain = float(_grade(folder, PLAIN, some).output.split()[0])
    ours = _grade(folder, OURS, large)
    summary = json.loads(ours.output)
    n = PROBLEMS * SAMPLES
    assert summary["rows"] == n
    scaled = plain * n / PLAIN_ROWS
    return [
        f"grading: {scaled / ours.cpu:.0f}x plain parse + verify (target >= {TARGET}x) on {n:,} "
        f"rows ({PROBLEMS} problems x {SAMPLES:,}, resampled from the shared boxed rollouts): "
        f"{ours.cpu:.1f} s CPU, workers, reading and writing included, empty cache, "
        f"{summary['checks']} Math-Verify checks, against {scaled:.0f} s, scaled from "
        f"{plain:.2f} s measured on {PLAIN_ROWS:,} random rows",
        f"grading: {ours.mebibytes:.0f} MiB at most (target < {TARGET_MIB} MiB), all processes "
        f"together, on the {large.stat().st_size / 2**20:.0f} MiB of those {n:,} rows",
    ]


def _small(name: str, folder: Path) -> str:
    source = ROLLOUTS / f"{name}.jsonl"
    costs: dict[str, list[Cost]] = defaultdict(list)
    for _ in range(ROUNDS):
        costs["plain"].append(_grade(folder, PLAIN, source))
        costs["ours"].append(_grade(folder, OURS, source))
    plain, ours = (min(costs[way]) for way in ("plain", "ours"))
    summary, plainly = (json.loads(cost.output.split("\n")[-2]) for cost in (ours, plain))
    assert summary["correct"] == plainly["correct"], "plain and ours disagree"
    return (
        f"grading: {plain.cpu / ours.cpu:.2f}x plain (target >= {SMALL_TARGET}x) on {name}: "
        f"{ours.cpu:.2f} s CPU against {plain.cpu:.2f} s, imports and process starts included, "
        f"empty cache, {summary['checks']} Math-Verify checks for {summary['rows']} rows; best of "
        f"{ROUNDS} each, in turn"
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _resample(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Write the large file, problem by problem; return the random rows that plain is measured on.

    Each of its problems is one of the real ones, each of its samples a completion of that problem.
    """
    draw = random.Random(SEED)
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["problem_id"]].append(row)
    names, chosen = sorted(groups), set(draw.sample(range(PROBLEMS * SAMPLES), PLAIN_ROWS))
    kept = []
    writer = None
    for number in range(PROBLEMS):
        own = groups[draw.choice(names)]
        new = [
            {**draw.choice(own), "problem_id": f"{number}", "sample_index": index}
            for index in range(SAMPLES)
        ]
        table = pa.Table.from_pylist(new)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        kept += [new[index] for index in range(SAMPLES) if number * SAMPLES + index in chosen]
    assert writer is not None
    writer.close()
    draw.shuffle(kept)
    return kept


def _grade(folder: Path, code: str, rollouts: Path) -> Cost:
    """Grade a file with an empty cache in a process of its own and count what that costs."""
    arguments = ["grade", str(rollouts), "-o", str(folder / "graded.parquet"), "--json"]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "RSGRPO_CACHE": cache},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        watch = _Watch(process.pid)
        assert process.stdout is not None
        output = process.stdout.read()
        watch.stop()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"grading {rollouts} ended with {process.returncode}: {output}")
    return Cost(usage.ru_utime + usage.ru_stime, watch.mebibytes, output)


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mebibytes = 0.0
        self._pid = pid
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Keep the largest sum met."""
        while not self._ended.wait(0.1):
            self.mebibytes = max(self.mebibytes, _resident(self._pid) / 2**20)

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join()


def _resident(pid: int) -> int:
    import psutil

    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
