"""Cases as a Markdown page that shows hostile text and renders none of it.

Whatever a model or a file has written stands inside a fence that is longer than any run of its
sign in the text, or is reduced to letters; signs that no reader sees are spelled out.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable
from itertools import zip_longest

from rsgrpo.analyses.cases import Case, Cases, Way

WIDTH = 58
LONGEST = 4000
WAYS_SHOWN = 3
_TAIL = 1000
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])


def case_page(cases: Cases, a: str, b: str) -> str:
    """Return the page.

    Args:
        cases: What `find_cases` returned.
        a: The name of A.
        b: The name of B.
    """
    head = [
        f"# Solved by `{plain_name(b)}` and not by `{plain_name(a)}`",
        f"{cases.found} of {cases.n_prompts} prompts have a correct sample of B "
        f"(`{plain_name(b)}`) and none of A (`{plain_name(a)}`); {len(cases.shown)} shown. "
        "A strategy is new where none of A's samples, right or wrong, has it.",
    ]
    body = [part for number, case in enumerate(cases.shown, 1) for part in _case(number, case)]
    return "\n\n".join([*head, *body]) + "\n"


def fenced(text: str) -> str:
    """Return text in a fence that it cannot close; see `visible`."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def visible(text: str) -> str:
    r"""Return text with every sign spelled out that controls, hides or turns others.

    Control characters, bidirectional overrides, zero-width signs and unassigned ones become
    `\u{202e}`; line ends stay and tabs become spaces.
    """
    lines = text.replace("\r\n", "\n").replace("\t", "    ")
    return "".join(
        f"\\u{{{ord(c):x}}}" if c != "\n" and unicodedata.category(c) in _HIDDEN else c
        for c in lines
    )


def plain_name(name: str) -> str:
    """Return a name with anything but letters, digits and `. : / + - =` replaced by `_`."""
    return re.sub(r"[^\w.:/+=-]", "_", name)[:100]


def side_by_side(left: str, right: str) -> str:
    """Return two texts in two columns, each wrapped; what is left out of a long one is said."""
    columns = [list(_wrapped(shortened(visible(text)))) for text in (left, right)]
    pairs = zip_longest(*columns, fillvalue="")
    return "\n".join(f"{_padded(one)} | {other}".rstrip() for one, other in pairs)


def shortened(text: str) -> str:
    """Return a text, or its beginning and its end with the number of characters left out."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    head, tail = text[: LONGEST - _TAIL], text[-_TAIL:]
    return f"{head}\n[... {left_out} characters left out ...]\n{tail}"


def _case(number: int, case: Case) -> Iterable[str]:
    tally = case.tally
    where = f"`{plain_name(tally.prompt.benchmark)}` `{plain_name(tally.prompt.problem_id)}`"
    yield f"## {number}. {where}"
    yield (
        f"B solves it in {tally.c} of {tally.n} samples, A in 0 of {tally.n_other} "
        f"(Fisher's exact test: p = {tally.p_value:.2g})."
    )
    yield fenced(f"Problem:\n{shortened(case.problem)}\n\nGold answer: {shortened(case.answer)}")
    for place, way in enumerate(case.ways[:WAYS_SHOWN]):
        yield _title(place, way, case)
        traits = [f"{t.kind}{' (new)' if t.new else ''}: {shortened(t.value)}" for t in way.traits]
        yield fenced("\n".join(traits))
        other = case.others[place % len(case.others)]
        yield fenced(side_by_side(f"A (wrong)\n\n{other}", f"B (correct)\n\n{way.completion}"))


def _title(place: int, way: Way, case: Case) -> str:
    mark = "**new strategy**" if way.new else "strategy that A has too"
    return (
        f"### Strategy {place + 1} of {len(case.ways)}: {mark}, "
        f"{way.n} of {case.tally.c} correct samples"
    )


def _wrapped(text: str) -> Iterable[str]:
    for line in text.split("\n"):
        yield from textwrap.wrap(line, WIDTH) or [""]


def _padded(line: str) -> str:
    width = sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in line
    )
    return line + " " * (WIDTH - width)
