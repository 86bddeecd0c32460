"""The offline report: one HTML file that needs nothing else and asks nothing of the network.

The same tables give the same bytes. Plotly is written into the page once; a content security policy
forbids every connection, so that the page cannot leak even by mistake.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from dashboards import limits
from dashboards.sections import Section, sections
from dashboards.tables import Tables, headline, labels, study
from dashboards.theme import CONFIG, dark_colors, styles
from dashboards.twins import Twin
from rsgrpo.errors import UserError

PAGE = Path(__file__).parent / "page"
BANDIT_KEYS = ("risk_beta", "seed", "final_reward", "first_pull_above_0.9")


def read_analysis(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables and the summary ({} where there is none) of an analysis folder.

    Raises:
        UserError: `tables.json` is missing, or a file is no JSON object.
    """
    tables = folder / "tables.json"
    if not tables.is_file():
        raise UserError(
            f"{tables} does not exist: name the folder that the analyse stage wrote, or run "
            "`rsgrpo demo` to make one"
        )
    summary = folder / "summary.json"
    return _read_object(tables), _read_object(summary) if summary.is_file() else {}


def read_bandit(path: Path) -> list[dict[str, Any]]:
    """Return the rows that `rsgrpo bandit --json` printed.

    Raises:
        UserError: The file is missing or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: write it with `rsgrpo bandit --json > {path}`")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [{key: row[key] for key in BANDIT_KEYS} for row in rows]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is not the output of `rsgrpo bandit --json`: write it again"
        ) from None


def write_report(
    tables: Tables,
    out: Path,
    *,
    summary: Mapping[str, Any] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write the report, whole or not at all.

    Args:
        tables: The study's tables; a table that is absent gives an empty figure.
        out: The HTML file.
        summary: Its "sentence" is the headline; its "commit" is printed.
        provenance: Names and values printed at the end, in this order.

    Returns:
        `out`.

    Raises:
        UserError: The folder of `out` does not exist.
    """
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it, or name a file in one that exists")
    page = render(tables, summary=summary or {}, provenance=provenance or {})
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8", newline="\n")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return out


def render(tables: Tables, *, summary: Mapping[str, Any], provenance: Mapping[str, object]) -> str:
    """Return the report as one HTML page."""
    shown = sections(tables)
    name = str(study(tables).get("name") or "study")
    known = _provenance(tables, summary, provenance)
    return Template((PAGE / "report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{name}: risk-sensitive GRPO, measured"),
        sentence=html.escape(str(summary.get("sentence") or "Nothing has been measured yet.")),
        style=(PAGE / "report.css").read_text(encoding="utf-8"),
        links="\n".join(f'<li><a href="#{s.id}-section">{s.title}</a></li>' for s in shown),
        sections="\n".join(_section(section, tables) for section in shown),
        limits="\n".join(f"<li>{html.escape(one)}</li>" for one in limits.limits(tables)),
        provenance="\n".join(
            f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>"
            for key, value in known.items()
        ),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        figures=_script_json(_payload(shown, tables)),
        script=(PAGE / "report.js").read_text(encoding="utf-8"),
    )


def _provenance(
    tables: Tables, summary: Mapping[str, Any], given: Mapping[str, object]
) -> dict[str, str]:
    row = study(tables)
    met: dict[str, object] = {"config": row.get("name"), "split": row.get("split"), **given}
    met.setdefault("commit", summary.get("commit"))
    met["benchmarks"] = ", ".join(map(str, row.get("benchmarks") or []))
    met["seeds"] = ", ".join(map(str, row.get("seeds") or []))
    return {key: str(value) for key, value in met.items() if value not in (None, "")}


def _section(section: Section, tables: Tables) -> str:
    return Template((PAGE / "section.html").read_text(encoding="utf-8")).substitute(
        id=section.id,
        title=html.escape(section.title),
        reading=html.escape(section.reading),
        caption=html.escape(section.caption(tables)),
        table=_table(section.twin(tables)),
    )


def _table(twin: Twin) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in twin.header)
    body = "\n".join(f"<tr>{_cells(row)}</tr>" for row in twin.rows)
    empty = f'<tr><td colspan="{len(twin.header)}">no rows</td></tr>'
    return (
        f"<table><caption>{html.escape(twin.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body or empty}\n</tbody></table>"
    )


def _cells(row: Iterable[str]) -> str:
    name, *values = (html.escape(str(value)) for value in row)
    return f'<th scope="row">{name}</th>' + "".join(f"<td>{value}</td>" for value in values)


def _payload(shown: Iterable[Section], tables: Tables) -> dict[str, Any]:
    return {
        "config": CONFIG,
        "dark": dark_colors(styles(labels(tables), headline(tables))),
        "figures": {section.id: _both_layouts(section, tables) for section in shown},
    }


def _both_layouts(section: Section, tables: Tables) -> dict[str, Any]:
    wide, narrow = (
        section.plot(tables, narrow=narrow).to_plotly_json() for narrow in (False, True)
    )
    return {"data": wide["data"], "wide": wide["layout"], "narrow": narrow["layout"]}


def _script_json(payload: object) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(
            f"{path} is not valid JSON ({fault}): run the analyse stage again"
        ) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise UserError(f"{path} holds a {kind}, not an object: run the analyse stage again")
    return found
