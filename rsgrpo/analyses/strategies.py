"""By which way does a completion reach its answer?

On the embedded task a way is the canonical expression tree, and more coarsely the sequence of
operators. On text it is a cluster of completions that share their wording, found by MinHash over
5-grams ("On the resemblance and containment of documents", Broder 1997), and beside it the set of
equations that are written down. Model output is only ever read: nothing is evaluated, and every
reader takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

GRAM_TOKENS = 5
PERMUTATIONS = 128
# From this Jaccard index of their 5-grams on, two completions count as worded alike. It parts the
# 7.5 correct answers that Qwen2.5-Math has to one of 97 problems into 3.0 clusters; answers to
# different problems stay below 0.1.
SIMILAR = 0.5
MAX_CHARACTERS = 100_000
MAX_EQUATIONS = 500
_MAX_SIDE_TOKENS = 60

_PROMPT = r"\d{1,2} \d{1,2} \d{1,2} > \d{1,2} :"
_WORDS = re.compile(r"\\[A-Za-z]+|[^\W\d_]+|\d+|[^\w\s]")
_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|[^\W\d_]+|\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|\n|\S")
_BOUNDARIES = frozenset(["\n", "$", "\\\\", "\\[", "\\]", "\\(", "\\)", "&", ";", ",", ".", ":"])
_LAYOUT = frozenset(["\\left", "\\right", "\\,", "\\!", "\\;", "\\:", "\\ ", "\\quad"])
_SAME_SIGN = {
    "\\cdot": "*",
    "\\times": "*",
    "×": "*",
    "·": "*",
    "\\div": "/",
    "÷": "/",
    "−": "-",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
}
_TEXT_COMMANDS = re.compile(r"\\(?:text|mathrm|begin|end|boxed|fbox|item|textbf|qquad|implies)")

# One sketch, and several as the rows of an array.
Sketch = npt.NDArray[np.uint32]
Sketches = npt.NDArray[np.uint32]


class ChainStrategy(NamedTuple):
    """How a Countdown chain goes: its tree up to order, and its operators as written."""

    tree: str
    operators: str


def is_countdown(problem: str) -> bool:
    """Return whether a problem is a prompt of the embedded task, `7 2 6 > 26 :`."""
    return re.fullmatch(_PROMPT, problem.strip(), re.ASCII) is not None


def chain_strategy(completion: str) -> ChainStrategy | None:
    """Return the strategy of a chain, right or wrong; None where the text is no chain."""
    from rsgrpo.data.countdown import OPERATORS, canonical_tree

    tokens = completion.split()
    if len(tokens) != 9 or (tokens[3], tokens[7]) != ("=", "="):
        return None
    numbers, operators = tokens[::2], (tokens[1], tokens[5])
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    if not all(operator in OPERATORS for operator in operators):
        return None
    return ChainStrategy(canonical_tree(" ".join(tokens)), " ".join(operators))


def sketches(completions: Sequence[str]) -> Sketches:
    """Return the MinHash sketch of each completion's token 5-grams.

    Args:
        completions: Any text; what lies beyond `MAX_CHARACTERS` is left out.

    Returns:
        A row of `PERMUTATIONS` minima for each one; the share that two have in common estimates the
        Jaccard index of their 5-grams, with a standard error of at most 0.045.

    Raises:
        ModuleNotFoundError: datasketch is not installed (extra `data`).
    """
    found = np.zeros((len(completions), PERMUTATIONS), dtype=np.uint32)
    for row, completion in zip(found, completions, strict=True):
        sketch = _empty_sketch().copy()
        sketch.update_batch(sorted(_grams(completion)))
        row[:] = sketch.hashvalues
    return found


def similarity(one: Sketch, others: Sketches) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard index of one sketch with each of the others."""
    return np.asarray((others == one).mean(axis=1), dtype=np.float64)


def clusters(found: Sketches) -> list[int]:
    """Return the cluster of each sketch, numbered from 0 in order of appearance.

    A sketch joins the cluster whose first member it resembles most, if that is `SIMILAR` or more,
    else it begins one of its own: no chain of small steps joins what differs.
    """
    first = np.empty_like(found)
    size = 0
    labels = []
    for sketch in found:
        near = similarity(sketch, first[:size])
        best = int(np.argmax(near)) if size else 0
        if not size or near[best] < SIMILAR:
            first[size] = sketch
            best, size = size, size + 1
        labels.append(best)
    return labels


def equations(completion: str) -> frozenset[str]:
    r"""Return the equations that a text writes down, in one spelling.

    A chain `a = b = c` is two equations. A side reaches from the sign of equality to the next word,
    line end or mark of punctuation; spaces, sizes (`\left`) and braces round one sign do not count,
    `\cdot`, `\times` and `*` are one sign, and the two sides are sorted, so that `2x=6` and
    `6 = 2x` agree.

    Args:
        completion: LaTeX or plain text, however hostile; what lies beyond `MAX_CHARACTERS` and
            `MAX_EQUATIONS` is left out.
    """
    tokens = _TOKENS.findall(completion[:MAX_CHARACTERS].replace("{,}", ","))
    found: set[str] = set()
    for segment in _segments(tokens):
        left = MAX_EQUATIONS - len(found)
        sides = [_spelled(side[:_MAX_SIDE_TOKENS]) for side in segment[: left + 1]]
        pairs = pairwise(sides)
        found.update("=".join(sorted(pair)) for pair in pairs if all(pair) and len(set(pair)) == 2)
        if len(found) >= MAX_EQUATIONS:
            break
    return frozenset(found)


def _segments(tokens: Iterable[str]) -> Iterator[list[list[str]]]:
    # Each run of mathematical tokens without a word in it, cut at its signs of equality.
    sides: list[list[str]] = [[]]
    for token in tokens:
        if token in ("=", "\\equiv"):
            sides.append([])
        elif _ends_segment(token):
            yield sides
            sides = [[]]
        elif token not in _LAYOUT:
            sides[-1].append(_SAME_SIGN.get(token, token.replace(",", "")))
    yield sides


def _spelled(side: Sequence[str]) -> str:
    # `\boxed{x=3}` leaves braces whose partner stands beyond the sign of equality.
    opened: list[int] = []
    alone = set()
    for place, token in enumerate(side):
        if token == "{":
            opened.append(place)
        elif token == "}" and opened:
            opened.pop()
        elif token == "}":
            alone.add(place)
    kept = (t for place, t in enumerate(side) if place not in alone and place not in opened)
    return re.sub(r"\{(\w)\}", r"\1", "".join(kept))


def _ends_segment(token: str) -> bool:
    is_word = len(token) > 1 and token[0].isalpha()
    return token in _BOUNDARIES or is_word or _TEXT_COMMANDS.match(token) is not None


@cache
def _empty_sketch() -> Any:
    # Its permutations take longer to make than the sketch of a completion.
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS)


def _grams(completion: str) -> set[bytes]:
    words = _WORDS.findall(completion[:MAX_CHARACTERS].lower())
    starts = range(max(1, len(words) - GRAM_TOKENS + 1))
    return {
        " ".join(words[start : start + GRAM_TOKENS]).encode("utf-8", "replace") for start in starts
    }
