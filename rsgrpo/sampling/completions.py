"""What an OpenAI-compatible completions server is asked, and what its answers mean.

An answer is another program's word: whatever in it is not as it should be is a `Fault`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# A checkpoint's own sampling settings must not leak into the draws of a vLLM that was started
# without --generation-config vllm. Other servers may refuse what OpenAI's interface lacks.
PLAIN_SAMPLING = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_UNFINISHED = (None, "abort", "error", "content_filter")
_MOST_TOKENS = 2**31 - 1


class Fault(Exception):
    """What a server did wrong, as the end of a sentence that begins with it; it may pass."""


class Unreachable(Fault):
    """A server that takes no connection, whatever the request is."""


class Choice(NamedTuple):
    """One completion.

    `token_logprobs` are natural logarithms, end token included; None where the server keeps them to
    itself. `n_tokens` is None where it cannot be told apart from that of its neighbours.
    """

    text: str
    truncated: bool
    n_tokens: int | None
    token_logprobs: tuple[float, ...] | None

    @property
    def logprob(self) -> float | None:
        """The sum of the tokens' log-probabilities, None where one is unknown."""
        return None if self.token_logprobs is None else math.fsum(self.token_logprobs)


class Model(NamedTuple):
    """A model that a server lists: its name there and, of vLLM alone, what it was loaded from."""

    name: str
    is_vllm: bool
    root: str | None


def read_models(answer: Any) -> list[Model]:
    """Return the models that a server lists.

    Raises:
        Fault: The answer is no list of models.
    """
    try:
        return [_read_model(model) for model in answer["data"]]
    except (TypeError, KeyError, AttributeError):
        raise Fault("answered what is no list of models") from None


def _read_model(model: Mapping[str, Any]) -> Model:
    is_vllm = model.get("owned_by") == "vllm"
    root = model.get("root") if is_vllm and not model.get("parent") else None  # else an adapter
    return Model(str(model["id"]), is_vllm, root if isinstance(root, str) else None)


def read_choices(answer: Any) -> list[Choice]:
    """Return the completions of an answer of `/v1/completions`, in their order, each once.

    Raises:
        Fault: The answer is no completion, or one that the server gave up.
    """
    try:
        rows = _each_once(sorted(answer["choices"], key=lambda row: row.get("index", 0)))
        spent = (answer.get("usage") or {}).get("completion_tokens")
        return [_read_choice(row, spent if len(rows) == 1 else None) for row in rows]
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as fault:
        raise Fault(f"answered what is no completion ({type(fault).__name__}: {fault})") from None


def _each_once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows without those that a server repeats: the same index, the same text."""
    met = {(row.get("index", place), row["text"]): row for place, row in enumerate(rows)}
    return list(met.values())


def _read_choice(row: Mapping[str, Any], spent: Any) -> Choice:
    text, finish = row["text"], row["finish_reason"]
    if not isinstance(text, str):
        raise TypeError("text is no string")
    if finish in _UNFINISHED:
        raise Fault(f"gave up a completion (finish_reason {finish})")
    logprobs = _token_logprobs(row.get("logprobs"))
    n_tokens = spent if type(spent) is int and 0 <= spent <= _MOST_TOKENS else None
    return Choice(
        text.encode("utf-8", "replace").decode(),  # JSON may hold halves of surrogate pairs
        finish == "length",
        n_tokens if logprobs is None else len(logprobs),
        None if logprobs is None or None in logprobs else tuple(map(float, logprobs)),  # type: ignore[arg-type]
    )


def _token_logprobs(given: Any) -> list[float | None] | None:
    values = None if given is None else given.get("token_logprobs")
    if not values:  # some that keep them to themselves say so with an empty list
        return None
    for value in values:
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError("a log-probability is no number")
    return list(values)


def brief(text: str, secret: str | None) -> str:
    """Return another program's words fit for a sentence: one short line without the key."""
    shown = text
    if secret:
        for written in (json.dumps(secret)[1:-1], secret):
            shown = shown.replace(written, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return line if len(line) <= 300 else f"{line[:300]}..."
