r"""One spelling for answers that Math-Verify reads alike, so that they are compared at sight.

Math-Verify drops `\left`, reads `\dfrac` as `\frac` and skips most spaces, but not everywhere: a
space decides whether `x + h` ends in a unit, whether `(1, 234)` is a pair or a number, and what is
still found in a text that cannot be parsed as a whole. So only short texts of a small, well-formed
grammar are rewritten, in which all of that cannot happen; any other text stays as it is.
"""

from __future__ import annotations

import re

_MAX_CHARS = 200

# Possessive throughout: a hostile text is turned down in linear time.
_NUMBER = r"\d++(?:\.\d++)?"
_PI = r"\\pi(?![a-zA-Z])"
# Math-Verify takes a letter before a space for the unit `e .`, and one at the end for a unit, too;
# 7E+3 is a number.
_LETTER = r"[a-df-zA-DF-Z](?![a-zA-Z ])"


def _sum(atom: str) -> str:
    power = r"(?:\^(?:\d(?!\d)|\{ *+\d++ *+\}))?+"
    factors = rf"(?:{atom}{power} *+)"
    term = rf"(?:{_NUMBER} *+{factors}*+|{factors}++)"
    return rf" *+-?+ *+{term}(?:[+-] *+{term})*+"


_INNER = _sum(rf"(?:{_PI}|{_LETTER})")
_EXPRESSION = _sum(
    rf"(?:{_PI}|{_LETTER}|\\[dtc]?frac\{{{_INNER}\}}\{{{_INNER}\}}|\\sqrt\{{{_INNER}\}})"
)
# Real numbers only: what is no interval or point is searched for numbers after spaces.
_REAL = _sum(rf"(?:{_PI}|\\[dtc]?frac\{{{_sum(_PI)}\}}\{{[1-9]\d*+\}}|\\sqrt\{{\d++\}})")
_LEFT, _RIGHT = r"(?:\\left)?+", r"(?:\\right)?+"
_POINT = rf"{_LEFT}\({_REAL}(?:,{_REAL})++{_RIGHT}\)"
_INTERVAL = rf"{_LEFT}[(\[]{_REAL},{_REAL}{_RIGHT}[)\]]"
_GRAMMAR = re.compile(rf"{_EXPRESSION}|{_POINT}|{_INTERVAL}(?: *+\\cup *+{_INTERVAL})*+", re.ASCII)
_FRACTIONS = re.compile(r"\\[dtc]frac")
_SIZES = re.compile(r"\\(?:left|right)(?=[(\[\])])")
_SPACES = re.compile(r"(?<![0-9A-Za-z,]) +| +(?![0-9A-Za-z ])")
_LETTER_LAST = re.compile(r"(?<!\\p)[a-zA-Z]$")


def normalise(text: str) -> str:
    r"""Return the one spelling of a text, which Math-Verify judges as it judges the text.

    Args:
        text: A gold answer, or what stood in a box; any text, of any length.

    Returns:
        The text without `\left` and `\right`, with `\frac` for `\dfrac`, `\tfrac` and `\cfrac`, and
        without the spaces that mean nothing; the text itself where it is not of the grammar.
    """
    if len(text) > _MAX_CHARS or not _GRAMMAR.fullmatch(text) or _LETTER_LAST.search(text):
        return text
    text = _SIZES.sub("", _FRACTIONS.sub(r"\\frac", text))
    return re.sub(" +", " ", _SPACES.sub("", text))
