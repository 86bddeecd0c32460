"""Ctrl-C and SIGTERM of a coordinator: the first asks it to stop politely, the second ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether a signal has come.

    Attributes:
        at_once: Raise KeyboardInterrupt at the first signal already: nothing must be waited for.
    """

    def __init__(self) -> None:
        """Begin with no signal heard."""
        self.at_once = True
        self.signal: signal.Signals | None = None

    def take(self, number: int, frame: object) -> None:
        """Note a signal.

        Raises:
            KeyboardInterrupt: It is the second one, or the first is to end everything.
        """
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again or self.at_once:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Asked]:
    """Take SIGINT and SIGTERM while the body runs; outside the main thread nothing is changed."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.take) for number in STOPS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
