"""Sampling: what is asked for is planned, what is there is kept, the rest is drawn part by part."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from rsgrpo.config import Config, PromptConfig, SamplingConfig, ServingConfig
from rsgrpo.data.prepare import read_benchmarks
from rsgrpo.errors import UserError, unknown
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.binding import adopt, bind_settings, settings_of
from rsgrpo.sampling.store import Part, alone_in, plan_parts, samples_of, spans_in, write_part

EVERY = 5.0  # seconds between two lines of progress where stderr is no terminal


class Progress(NamedTuple):
    """Completions there are and shall be; completions and tokens that this call has drawn."""

    done: int
    total: int
    drawn: int
    tokens: int


Report = Callable[[Progress], None]


class Sampler(Protocol):
    """A back end: it draws parts and hands each one over as soon as it is complete."""

    def draw(self, parts: Sequence[Part], write: Callable[[Part, list[Sample]], None]) -> None:
        """Draw every part; call `write` with its samples in the order of `part.draws`.

        Parts may be completed in any order.
        """


def sample_stage(config: Config, *, data: Path, policy: str | Path, out: Path) -> None:
    """Draw the configured samples of the split's benchmarks (`sampling`, `prompt`, `serving`).

    Parts that another folder beside `out` holds are taken over where nothing that changes draws
    differs: more samples, or one more benchmark, cost only what is new.

    Args:
        config: The study.
        data: The output folder of the prepare stage.
        policy: A policy directory or a hub id.
        out: Where the parts go, one folder for each benchmark.

    Raises:
        UserError: There is no such benchmark, the policy or the server refuses, or `out` holds
            samples drawn under other settings.
    """
    settings = config.sampling
    every = read_benchmarks(data, settings.split)
    samples_of(settings, list(every))
    problems = chosen_problems(every, settings.benchmarks, settings.limit)
    settings = settings.model_copy(
        update={"n_of": {name: n for name, n in settings.n_of.items() if name in problems}}
    )
    sample(
        policy,
        problems,
        settings.n,
        out=out,
        settings=settings,
        prompt=config.prompt,
        serving=config.serving,
        neighbours=[folder for folder in sorted(out.parent.iterdir()) if folder != out],
        report=progress_line(),
    )


def chosen_problems(
    problems: Mapping[str, list[Problem]], benchmarks: Sequence[str], limit: int | None
) -> dict[str, list[Problem]]:
    """Return the first `limit` problems of the named benchmarks: of all, where none is named.

    Raises:
        UserError: A name is not among them.
    """
    for name in benchmarks:
        if name not in problems:
            raise UserError(f"sampling.benchmarks: {unknown('benchmark', name, list(problems))}")
    return {name: problems[name][:limit] for name in problems if name in (benchmarks or problems)}


def sample(
    policy: str | Path,
    problems: Mapping[str, Sequence[Problem]],
    n: int,
    *,
    out: Path,
    settings: SamplingConfig = SamplingConfig(),
    prompt: PromptConfig = PromptConfig(),
    serving: ServingConfig = ServingConfig(),
    neighbours: Sequence[Path] = (),
    report: Report | None = None,
) -> list[Path]:
    """Draw `n` completions of every problem and write them as Parquet parts.

    Only what is missing is drawn; killed at any moment, the next call draws the rest.

    Args:
        policy: A policy directory or a hub id.
        problems: The problems of each benchmark, by name.
        n: Samples of each problem; it takes the place of `settings.n`. Benchmarks that
            `settings.n_of` names keep theirs.
        out: Where the parts go.
        settings: Back end, batch size, temperature, top-p, length limit, seed, exceptions from `n`.
        prompt: How a problem becomes a prompt.
        serving: Where the back end `server` finds its servers.
        neighbours: Folders of other calls, whose parts are taken over where they fit.
        report: Called before the first part and after each.

    Returns:
        The files of all parts.

    Raises:
        UserError: The policy cannot be loaded, `settings.n_of` names an unknown benchmark, a
            prompt is too long, memory or a server gives out, or `out` holds samples drawn under
            other settings or is being written by another process. Parts that were complete are
            kept.
    """
    settings = settings.model_copy(update={"n": n})
    draws = samples_of(settings, list(problems))
    bound = settings_of(policy, problems, settings, prompt)
    with alone_in(out):
        bind_settings(out, bound, draws)
        for torn in out.glob("*/part-*.partial"):
            torn.unlink()
        adopt(out, bound, draws, neighbours)
        missing = plan_parts(problems, draws, settings.batch_size, settings.seed, out)
        if missing:
            total = sum(draws[name] * len(rows) for name, rows in problems.items())
            sampler = _sampler(policy, settings, prompt, serving)
            sampler.draw(missing, _Writer(out, total, sum(p.size for p in missing), report))
    left = plan_parts(problems, draws, settings.batch_size, settings.seed, out)
    assert not left, f"{left[0].path(out)} was not written"
    return [
        out / name / span.file_name
        for name in problems
        for span in spans_in(out / name)
        if span.start < draws[name]
    ]


def _sampler(
    policy: str | Path, settings: SamplingConfig, prompt: PromptConfig, serving: ServingConfig
) -> Sampler:
    if settings.backend == "server":
        from rsgrpo.sampling.server import ServerSampler

        return ServerSampler(policy, settings, prompt, serving)
    from rsgrpo.sampling.local import LocalSampler

    return LocalSampler(policy, settings, prompt)


class _Writer:
    """Writes each part when it is complete, and reports how far the whole is."""

    def __init__(self, out: Path, total: int, missing: int, report: Report | None) -> None:
        self.out, self.report = out, report
        self.progress = Progress(total - missing, total, 0, 0)
        self._tell()

    def __call__(self, part: Part, samples: list[Sample]) -> None:
        found = [(row.problem_id, row.sample_index) for row in samples]
        wanted = [(problem.id, index) for problem, index in part.draws]
        assert found == wanted, f"{part.path(self.out)} does not hold the draws that were planned"
        write_part(part.path(self.out), samples)
        done, total, drawn, tokens = self.progress
        tokens += sum(row.n_tokens for row in samples)
        self.progress = Progress(done + len(samples), total, drawn + len(samples), tokens)
        self._tell()

    def _tell(self) -> None:
        if self.report:
            self.report(self.progress)


def progress_line() -> Report:
    """Return a reporter of completions, rates and time left, on one line of stderr.

    Its clock begins with its first call, when the policy is loaded. On a terminal the line is
    written again and again, elsewhere a new one at most every few seconds.
    """
    began: list[float] = []
    shown = [0.0]

    def report(progress: Progress) -> None:
        now = time.monotonic()
        if not began:
            began.append(now)
            shown[0] = now
            return
        last = progress.done == progress.total
        line = _line(progress, now - began[0])
        if sys.stderr.isatty():
            print(f"\r{line:<79}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or now - shown[0] >= EVERY:
            shown[0] = now
            print(line, file=sys.stderr, flush=True)

    return report


def _line(progress: Progress, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    rate = progress.drawn / seconds
    left = timedelta(seconds=round((progress.total - progress.done) / rate))
    return (
        f"sampling: {progress.done:,} of {progress.total:,} completions, {rate:,.3g}/s, "
        f"{progress.tokens / seconds:,.0f} tokens/s, {left} left"
    )
