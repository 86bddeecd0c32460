"""The offline report: one file, the same bytes for the same tables, hostile text shown as text."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dashboards.commands import register
from dashboards.limits import limits
from dashboards.report import read_analysis, read_bandit, write_report
from dashboards.sections import SECTIONS, sections
from dashboards.twins import (
    advantage_twin,
    difference_twin,
    dynamics_twin,
    passk_grid_twin,
    passk_mean_twin,
    tradeoff_twin,
    transitions_twin,
    unique_twin,
)
from rsgrpo.errors import UserError

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>&amp;'
SUMMARY = {"sentence": "RS-GRPO β=4 solves more.", "commit": "abc1234"}


class Outline(HTMLParser):
    """Collects tags with their attributes, and the ids met."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(study_tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(study_tables, out, summary=SUMMARY).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    return parsed


def hostile_tables(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables with markup as a label, a benchmark and a rule."""
    text = json.dumps(tables)
    for name in ("RS-GRPO \\u03b2=4", "T3"):
        text = text.replace(f'"{name}"', json.dumps(f"{HOSTILE}{name[-1]}"))
    changed: dict[str, Any] = json.loads(text)
    changed["study"]["name"] = changed["tradeoff"]["rule"] = HOSTILE
    return changed


def test_the_same_tables_give_the_same_bytes(
    study_tables: dict[str, Any], tmp_path: Path, page: str
) -> None:
    again = write_report(copy.deepcopy(study_tables), tmp_path / "again.html", summary=SUMMARY)
    assert again.read_bytes() == page.encode()


def test_another_process_writes_the_same_bytes(
    study_tables: dict[str, Any], tmp_path: Path, page: str
) -> None:
    (tmp_path / "tables.json").write_text(json.dumps(study_tables, sort_keys=True))
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    code = (
        "import sys; from pathlib import Path; from dashboards.report import *\n"
        "tables, summary = read_analysis(Path(sys.argv[1]))\n"
        "write_report(tables, Path(sys.argv[1]) / 'report.html', summary=summary)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root)
    assert (tmp_path / "report.html").read_bytes() == page.encode()


def test_nothing_is_left_beside_the_report_and_a_fault_keeps_the_old_one(
    study_tables: dict[str, Any], tmp_path: Path
) -> None:
    out = write_report(study_tables, tmp_path / "report.html")
    before = out.read_bytes()
    with pytest.raises(KeyError):
        write_report({"methods": [{"label": "x"}]}, out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing is no folder: make it"):
        write_report({}, tmp_path / "missing" / "report.html")


def test_the_page_is_self_contained(page: str, outline: Outline) -> None:
    assert page.count("plotly.js v") == 1
    assert not outline.named("link") and not outline.named("img") and not outline.named("iframe")
    assert all("src" not in script for script in outline.named("script"))
    assert all((anchor["href"] or "").startswith("#") for anchor in outline.named("a"))
    assert "url(" not in page[: page.index("<body>")]
    own = page[: page.index('<script type="application/json"')]
    assert "http" not in own.replace("http-equiv", "")


def test_figures_and_script_of_our_own_name_no_address(page: str) -> None:
    payload = page[page.index('id="figures">') : page.index("plotly.js v")]
    ours = page[page.rindex("<script>") :]
    assert "http" not in payload and "http" not in ours


def test_the_policy_of_the_page_forbids_every_connection(outline: Outline) -> None:
    (policy,) = [m["content"] for m in outline.named("meta") if "http-equiv" in m]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert "connect-src" not in rules


def test_landmarks_headings_and_tables_are_named(page: str, outline: Outline) -> None:
    assert outline.named("html")[0]["lang"] == "en"
    assert "<title>demo: risk-sensitive GRPO, measured</title>" in page
    for landmark in ("header", "nav", "main", "footer"):
        assert len(outline.named(landmark)) == 1
    assert outline.named("a")[0] == {"class": "skip", "href": "#main"}
    ids = [a["id"] for _, a in outline.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert {a[attribute] for _, a in outline.tags if a.get(attribute)} <= set(ids)
    assert len(outline.named("table")) == len(outline.named("caption")) == len(SECTIONS)
    assert len(outline.named("figure")) == len(outline.named("figcaption")) == len(SECTIONS)
    assert all(th.get("scope") in ("col", "row") for th in outline.named("th"))


def test_the_headline_and_the_provenance_are_printed(page: str) -> None:
    assert '<p class="sentence">RS-GRPO β=4 solves more.</p>' in page
    for key, value in (("config", "demo"), ("split", "development"), ("commit", "abc1234")):
        assert f"<dt>{key}</dt><dd>{value}</dd>" in page


def test_every_caption_states_samples_prompts_seeds_and_interval(
    study_tables: dict[str, Any],
) -> None:
    captions = {section.id: section.caption(study_tables) for section in SECTIONS}
    measured = ("passk-mean", "difference", "tradeoff", "passk-grid", "transitions", "unique")
    for name in measured:
        caption = captions[f"figure-{name}"]
        assert re.search(r"256 samples for each of (240|40) prompts, seeds 0, 1\.", caption), name
        assert "95%" in caption, name
    assert (
        "Interval: 95%, paired bootstrap over prompts and seeds, 2,000 resamples."
        in captions["figure-difference"]
    )
    assert (
        "Knee: RS-GRPO β=4; the same point in 81% of the resamples. Rule: the point"
        in captions["figure-tradeoff"]
    )
    for name in ("dynamics", "advantages"):
        assert "0, 1" in captions[f"figure-{name}"] and "interval" in captions[f"figure-{name}"]


def test_hostile_text_is_shown_as_text(study_tables: dict[str, Any], tmp_path: Path) -> None:
    out = write_report(
        hostile_tables(study_tables),
        tmp_path / "report.html",
        summary={"sentence": HOSTILE},
        provenance={"config": HOSTILE},
    )
    text = out.read_text(encoding="utf-8")
    parsed = Outline()
    parsed.feed(text)
    assert "<script>alert" not in text
    assert len(parsed.named("script")) == 3 and not parsed.named("img")
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text


def test_empty_tables_still_give_a_whole_report(tmp_path: Path) -> None:
    text = write_report({}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing has been measured yet." in text
    assert text.count('<td colspan="') == len(SECTIONS)


def test_the_bandit_is_shown_only_where_it_was_run(study_tables: dict[str, Any]) -> None:
    row = {"risk_beta": 4.0, "seed": 0, "final_reward": 1.0, "first_pull_above_0.9": 57_000}
    assert len(sections(study_tables)) == len(SECTIONS)
    shown = sections({**study_tables, "bandit": [row]})
    assert shown[-1].id == "figure-bandit"
    assert shown[-1].twin({"bandit": [row]}).rows == (("4", "0", "1.000", "57,000"),)


def test_twins_hold_every_row_of_their_table(study_tables: dict[str, Any]) -> None:
    assert len(passk_mean_twin(study_tables).rows) == 6 * 9
    assert len(passk_grid_twin(study_tables).rows) == 6 * 9 * 6
    assert len(tradeoff_twin(study_tables).rows) == 6
    assert len(difference_twin(study_tables).rows) == 9 * 7 * 9
    assert len(dynamics_twin(study_tables).rows) == 5 * 2 * 6
    assert len(advantage_twin(study_tables).rows) == 17
    assert len(unique_twin(study_tables).rows) == 6 * 6
    assert len(transitions_twin(study_tables).rows) == 5 * 2


def test_twins_print_the_numbers_with_their_interval(study_tables: dict[str, Any]) -> None:
    row = study_tables["methods"][-1]
    assert (row["benchmark"], row["k"], row["label"]) == ("mean", 256, "RS-GRPO β=8")
    shown = f"{100 * row['low']:.1f}% to {100 * row['high']:.1f}%"
    wanted = ("RS-GRPO β=8", "mean", "256", f"{100 * row['pass_at_k']:.1f}%", shown, "256", "240")
    assert (*wanted, "0, 1") in passk_mean_twin(study_tables).rows


def test_limits_speak_of_this_study_only_where_they_apply(study_tables: dict[str, Any]) -> None:
    said = " ".join(limits(study_tables))
    assert "k > 64" in said and "k = 256 means solved at least once in 256" in said
    assert "development split" in said and "2 seeds" in said and "enumerated" in said
    tested = {**study_tables, "unique": []}
    tested["study"] = {**study_tables["study"], "split": "test", "seeds": [1], "ks": [1]}
    said = " ".join(limits(tested))
    assert "development split" not in said and "a quarter" not in said and "tiny" not in said
    assert "with 1 seed:" in said


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_unreadable_tables_are_one_sentence(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tables.json").write_text(content)
    with pytest.raises(UserError) as fault:
        read_analysis(tmp_path)
    assert "tables.json" in str(fault.value) and "\n" not in str(fault.value)


def test_the_verb_writes_a_report_and_prints_its_path(
    study_tables: dict[str, Any], tmp_path: Path
) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    (tmp_path / "tables.json").write_text(json.dumps(study_tables))
    out = tmp_path / "mine.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "") == str(out) and out.stat().st_size > 1_000_000


def test_registering_the_verb_imports_nothing_heavy() -> None:
    code = (
        "import sys, typer; from dashboards.commands import register; register(typer.Typer());"
        "print(sorted({'plotly', 'numpy', 'torch', 'pandas', 'rsgrpo'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_bandit_rows_become_a_section_and_faulty_ones_a_sentence(
    tmp_path: Path, study_tables: dict[str, Any]
) -> None:
    rows = [
        {"risk_beta": 4.0, "seed": 0, "final_reward": 0.99, "first_pull_above_0.9": 51_200},
        {"risk_beta": 0.0, "seed": 0, "final_reward": 0.6, "first_pull_above_0.9": None},
    ]
    (tmp_path / "bandit.json").write_text(json.dumps(rows))
    assert read_bandit(tmp_path / "bandit.json") == rows
    with_bandit = write_report({**study_tables, "bandit": rows}, tmp_path / "b.html").read_text()
    assert 'id="figure-bandit-section"' in with_bandit
    (tmp_path / "torn.json").write_text('[{"seed": 0}]')
    with pytest.raises(UserError, match="not the output of `rsgrpo bandit --json`"):
        read_bandit(tmp_path / "torn.json")
    with pytest.raises(UserError, match="does not exist"):
        read_bandit(tmp_path / "nowhere.json")
