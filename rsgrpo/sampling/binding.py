"""What binds samples together: the settings that change draws, and parts taken over from others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsgrpo.config import PromptConfig, SamplingConfig
from rsgrpo.errors import UserError
from rsgrpo.fingerprints import code_version, package_version, sha256
from rsgrpo.records import Problem
from rsgrpo.sampling.store import SETTINGS, Span, asked_samples, overlap, read_settings, spans_in
from rsgrpo.stage_table import STAGES

# A setting of these does not change a draw of a problem: how many, and of which benchmarks.
_FREE = {"n", "n_of", "benchmarks", "limit", "split"}


def settings_of(
    policy: str | Path,
    problems: Mapping[str, Sequence[Problem]],
    settings: SamplingConfig,
    prompt: PromptConfig,
) -> dict[str, Any]:
    """Return all that a draw depends on, as JSON has it.

    Args:
        policy: A policy directory, known by its content, or a hub id, known by its revision; what
            a server serves need be on no hub and is known by the revision on disk, if any.
        problems: The problems of each benchmark, known by their content, by name.
        settings: Of these, what changes draws.
        prompt: How a problem becomes a prompt.
    """
    stage = STAGES["sample"]
    return {
        "drawn_with": {
            **settings.model_dump(mode="json", exclude=_FREE),
            **{f"prompt.{key}": value for key, value in prompt.model_dump(mode="json").items()},
            "policy": policy_digest(policy, ask_hub=settings.backend == "local"),
            "code": code_version(stage.rooms),
            **{name: package_version(name) for name in stage.packages},
        },
        "problems": {name: _digest(rows) for name, rows in problems.items()},
    }


def policy_digest(policy: str | Path, ask_hub: bool = True) -> str:
    """Return what tells a policy's weights from others: a digest, or a hub id and its revision.

    Args:
        policy: A policy directory, a hub id, or the name under which a server has it.
        ask_hub: Whether to ask the hub for its newest revision; else that on disk is taken.
    """
    folder = Path(policy)
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if _belongs_to_policy(file))
        return _digest([(file.name, sha256(file)) for file in files])
    with suppress(ImportError, OSError):  # not to be had: the back end will say so
        from transformers.utils.hub import cached_file

        config = cached_file(str(policy), "config.json", local_files_only=not ask_hub)
        return f"{policy}@{Path(config).parent.name}"
    return str(policy)


def bind_settings(out: Path, bound: Mapping[str, Any], n: Mapping[str, int]) -> None:
    """Record what draws depend on and how many are asked for; refuse to mix with other draws.

    Args:
        out: The folder of parts.
        bound: What `settings_of` returns.
        n: Samples of each problem, by benchmark; more or fewer than before are welcome.

    Raises:
        UserError: Parts drawn under other settings lie in `out`; the sentence names a difference.
    """
    stored = {"drawn_with": bound["drawn_with"], "problems": {}, **(read_settings(out) or {})}
    for key in {**stored["drawn_with"], **bound["drawn_with"]}:
        before, now = stored["drawn_with"].get(key), bound["drawn_with"].get(key)
        if before != now:
            raise UserError(
                f"{out} holds samples drawn with {key} = {before!r}, not {now!r}: choose another "
                "folder, or set it back"
            )
    for name, digest in bound["problems"].items():
        if stored["problems"].get(name, digest) != digest:
            raise UserError(
                f"{out} holds samples of other problems of benchmark {name}: choose another "
                "folder, or give it the same problems"
            )
    out.mkdir(parents=True, exist_ok=True)
    _write(
        out / SETTINGS,
        {
            "drawn_with": bound["drawn_with"],
            "problems": stored["problems"] | bound["problems"],
            "n": asked_samples(out) | dict(n),
        },
    )


def adopt(
    out: Path, bound: Mapping[str, Any], n: Mapping[str, int], neighbours: Sequence[Path]
) -> None:
    """Take over the finished parts of other folders that were drawn as those of `out` are.

    Args:
        out: The folder of parts; a file of it is never replaced.
        bound: What `settings_of` returns.
        n: Samples of each problem, by benchmark: a part that begins behind them is left.
        neighbours: Folders of parts.
    """
    fitting = [(folder, stored) for folder in neighbours if (stored := _stored(folder))]
    fitting = [(f, stored) for f, stored in fitting if stored["drawn_with"] == bound["drawn_with"]]
    for name, digest in bound["problems"].items():
        places = [f / name for f, stored in fitting if stored["problems"].get(name) == digest]
        taken = spans_in(out / name)
        for span, file in _by_reach(places):
            if span.start >= n[name] or any(overlap(span, other) for other in taken):
                continue
            if _is_whole(file) and _link(file, out / name / span.file_name):
                taken.append(span)


def _by_reach(places: Sequence[Path]) -> Iterator[tuple[Span, Path]]:
    """Yield the parts in several folders, of those that begin together the longest first."""
    found = [(span, place / span.file_name) for place in places for span in spans_in(place)]
    yield from sorted(found, key=lambda one: (one[0].chunk, one[0].start, -one[0].stop, one[1]))


def _link(file: Path, place: Path) -> bool:
    """Put a part into its place too; False where it is gone."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    try:
        os.link(file, place)
    except FileNotFoundError:
        return False
    except OSError:  # another disk, or one without hard links
        try:
            shutil.copyfile(file, partial)
        except FileNotFoundError:
            return False
        partial.replace(place)
    return True


def _stored(folder: Path) -> dict[str, Any] | None:
    try:
        stored = read_settings(folder)
    except (UserError, OSError):  # another folder's fault is its own
        return None
    return stored if stored and {"drawn_with", "problems"} <= stored.keys() else None


def _is_whole(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):  # torn, or gone in the meantime
        return False
    return True


def _write(file: Path, content: Mapping[str, Any]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(file)


def _belongs_to_policy(file: Path) -> bool:
    """Return whether a file is one that a policy is loaded from, and no record of its making."""
    return file.suffix in (".safetensors", ".jinja", ".model", ".txt") or (
        file.suffix == ".json" and not file.name.startswith(("manifest", "trainer_state"))
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
