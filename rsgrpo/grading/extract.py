"""Reading the final answer out of a completion."""

from __future__ import annotations

import re
from typing import Literal

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# A whole box without escapes, in which braces are at most two deep: most answers.
_PLAIN_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*+\{"
    r"((?:[^{}\\]|\\[a-zA-Z]|\{(?:[^{}\\]|\\[a-zA-Z])*+\})*+)\}"
)
_TOKENS = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)"
    r"|\\\\(?!(?:boxed|fbox)\s*\{)"
    r"|\\[{}]"
    r"|(?P<open>\{)"
    r"|(?P<close>\})"
)


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last balanced `\boxed{...}` or `\fbox{...}`, stripped.

    The last is the one that opens last, so of nested boxes it is the inner one. The escaped braces
    `\{` and `\}` do not count. A box that is never closed is passed over. Time is linear in the
    length of the text.

    Returns:
        The content ("" for an empty box), or None where no box is closed.
    """
    # Nearly always the last box is closed, and what comes before it need not be read.
    begin = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if begin < 0:
        return None
    plain = _PLAIN_BOX.match(text, begin)
    if plain:
        return plain[1].strip()
    content = _last_balanced(text, begin) if _BOX.match(text, begin) else None
    return _last_balanced(text, 0) if content is None else content


def _last_balanced(text: str, begin: int) -> str | None:
    starts: list[int | None] = []
    last: tuple[int, int] | None = None
    for token in _TOKENS.finditer(text, begin):
        if token["box"]:
            starts.append(token.end())
        elif token["open"]:
            starts.append(None)
        elif token["close"] and starts:
            start = starts.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, token.start())
    return text[slice(*last)].strip() if last else None


def extract_answer(completion: str, mode: Literal["boxed", "full"]) -> str | None:
    """Return the text that the verifier is to judge, or None where there is no answer.

    Args:
        completion: The model's text, whole or cut short.
        mode: `boxed` takes the last box alone; `full` hands on the whole text, in which Math-Verify
            searches for an answer by its own rules.
    """
    text = last_boxed(completion) if mode == "boxed" else completion.strip()
    return text or None
