"""Names and texts as MLflow takes them: its signs, its lengths, its requests."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

TEXTS_PER_BATCH = 100
# A request may hold 1,000,000 characters, and one character may take six (as in \\u00e9).
CHARACTERS_PER_BATCH = 150_000
LONGEST_TEXT = 6000
LONGEST_KEY = 250
CUT_MARKER = " ... [cut here: the spool holds all of it]"


def metric_key(name: str) -> str:
    """Return a name as MLflow allows it: a few signs only, and no path that leads upwards."""
    allowed = re.sub(r"[^\w\-. :/]", "_", name)[:LONGEST_KEY]
    return posixpath.normpath(allowed).lstrip("./") or "_"


def stored_texts(values: Mapping[str, str]) -> dict[str, str]:
    """Return names and values as MLflow allows them; a value that is too long says so."""
    return {metric_key(key): _cut(value) for key, value in values.items()}


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return text[: LONGEST_TEXT - len(CUT_MARKER)] + CUT_MARKER


def text_batches(texts: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    """Yield (name, value) in portions that one request may hold."""
    batch: list[tuple[str, str]] = []
    size = 0
    for key, value in texts.items():
        size += len(key) + len(value)
        if len(batch) == TEXTS_PER_BATCH or (batch and size > CHARACTERS_PER_BATCH):
            yield batch
            batch, size = [], len(key) + len(value)
        batch.append((key, value))
    if batch:
        yield batch
