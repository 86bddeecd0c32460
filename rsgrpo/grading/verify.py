"""One check of an answer against its gold answer with Math-Verify.

Math-Verify limits its own time with SIGALRM, which works in the main thread only and does not stop
C code. Here its limits are off: `check` may run for hours or abort the process, so it runs in a
process that `supervisor.py` can kill.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

# Math-Verify sets no alarm for a limit of zero.
_NO_LIMIT = 0


class Check(NamedTuple):
    """The outcome for one pair of texts; `verdict` and `extracted` as in `records.Verdict`.

    `lasting` says that Math-Verify came to it by itself, so that it holds under other limits, too.
    """

    verdict: str
    extracted: str
    lasting: bool = True


def equal_at_sight(gold: str, text: str) -> bool | None:
    """Compare as strings and as integers; None where that does not decide."""
    gold, text = gold.strip(), text.strip()
    if gold == text:
        return True
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(text):
        return int(gold) == int(text)
    return None


def check(gold: str, text: str, mode: Literal["boxed", "full"]) -> Check:
    """Judge one answer with Math-Verify, however long it takes.

    Args:
        gold: The gold answer, bare LaTeX.
        text: What `extract_answer` returned for the same mode.
        mode: `boxed` judges the text as one expression; `full` searches it for an answer.

    Returns:
        `correct`, `incorrect`, `no_answer` (nothing found in a full text) or `error` (the gold
        answer cannot be read).
    """
    from math_verify import verify

    golds = _parse_gold(gold)
    found = _parse(_boxed(text) if mode == "boxed" else text)
    extracted = text if mode == "boxed" else _as_written(found)
    if not golds:
        return Check("error", extracted)
    if mode == "full" and not found:
        return Check("no_answer", "")
    correct = verify(golds, found, timeout_seconds=_NO_LIMIT)
    return Check("correct" if correct else "incorrect", extracted)


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


@lru_cache(maxsize=64)
def _parse_gold(gold: str) -> list[Any]:
    return _parse(_boxed(gold))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=_NO_LIMIT))


def _as_written(found: list[Any]) -> str:
    return next((item for item in found if isinstance(item, str)), "")
