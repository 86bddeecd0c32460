"""The verbs `rsgrpo data prepare | list | overlap`. Nothing heavy is imported before one runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Named data sets: prepare, list, compare.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print rows as JSON.")]


@app.command()
def prepare(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, or all that the source has.")
    ] = None,
    source: Annotated[str, typer.Option(help="hub, or a folder of JSONL files.")] = "hub",
) -> None:
    """Bring named sets into the data folder (RSGRPO_DATA, or ./data) in one schema."""
    from rsgrpo.data.fetch import chosen_sets, prepare_set

    folder = None if source == "hub" else Path(source)
    rows, warnings = [], []
    for entry in chosen_sets(names or (), folder):
        done = prepare_set(entry, folder)
        rows.append(
            {
                "name": done.name,
                "rows": done.rows,
                "duplicates": done.duplicates,
                "conflicts": f"{done.conflicts} ({done.conflicting_rows} rows)",
                "source": done.source,
                "state": "unchanged" if done.unchanged else "prepared",
            }
        )
        warnings += done.warnings
    _print_rows(rows, as_json=False)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


@app.command("list")
def list_sets(as_json: AsJson = False) -> None:
    """Show the catalogue: rows as published, licence, hub id, pinned revision, and what is here.

    `at download`: no commit is known to pin; the one that is fetched is recorded and kept.
    """
    from rsgrpo.data.catalogue import CATALOGUE
    from rsgrpo.data.fetch import read_record

    rows = []
    for entry in CATALOGUE.values():
        record = read_record(entry.name)
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "rows": entry.rows,
                "licence": entry.licence,
                "hub_id": entry.hub_id,
                "revision": entry.revision or (record or {}).get("revision") or "at download",
                "prepared": f"{record['rows']} rows" if record else "no",
            }
        )
    _print_rows(rows, as_json)


@app.command()
def overlap(
    train: Annotated[str, typer.Argument(help="Name or JSONL file of a training set.")],
    benchmarks: Annotated[list[str], typer.Argument(help="Names or JSONL files.")],
    near: Annotated[bool, typer.Option("--near", help="Near copies too (13-gram MinHash).")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Count the problems of benchmarks that a training set holds."""
    from rsgrpo.data.overlap import NEAR_RULE, count_overlaps, find_overlaps

    own = _problems(train)
    stems = [Path(place).stem for place in benchmarks]
    names = stems if len(set(stems)) == len(stems) else benchmarks
    known = {name: _problems(place) for name, place in zip(names, benchmarks, strict=True)}
    pairs = find_overlaps(own, known, near)
    rows = [{"train": Path(train).stem, **r._asdict()} for r in count_overlaps(pairs, known, near)]
    rule = f"near, beyond the exact: {NEAR_RULE}" if near else "near: not asked for (--near)"
    if not as_json:
        typer.echo(f"exact: equal in lower case with only [a-z0-9] left; {rule}")
    _print_rows(rows, as_json)


def _problems(place: str) -> Any:
    from rsgrpo.data.catalogue import CATALOGUE, could_be_a_name, file_of
    from rsgrpo.data.jsonl import read_problems
    from rsgrpo.errors import UserError, unknown

    if place not in CATALOGUE and could_be_a_name(place) and not Path(place).exists():
        raise UserError(unknown("data set", place, list(CATALOGUE)))
    return read_problems(file_of(place))


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    from rsgrpo.tabular import table

    typer.echo(json.dumps(rows, indent=1) if as_json else table(rows))
