"""The caller's end of the supervisor: starts the process, talks to it and ends it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from rsgrpo.errors import UserError
from rsgrpo.grading.verify import Check
from rsgrpo.grading.worker import Limits, Task

_PATIENCE_SECONDS = 60.0
_STOP_SECONDS = 5.0

# The child looks for modules where its parent does, and imports nothing from the working folder.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rsgrpo.grading.supervisor import main; main()"
)


class SupervisorDiedError(Exception):
    """The supervisor ended, or did not answer in time."""


class Supervisor:
    """A running process of `supervisor.py`."""

    def __init__(self, limits: Limits) -> None:
        """Start the process, which takes about a second to import Math-Verify.

        Raises:
            UserError: Math-Verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                "grading with math_verify needs the package math-verify, which is not installed: "
                "install the extra, pip install -e '.[grade]'"
            )
        self.caller = os.getpid()
        # Between two results a task may run, die, and run again.
        self._patience = 2 * limits.timeout + _PATIENCE_SECONDS
        self._channel, child = Pipe()
        with child:
            self._process = _start(child, self.caller)
        self._write(tuple(limits))

    def send(self, tasks: list[Task]) -> None:
        """Give it tasks; every result of the last ones must have been received.

        Raises:
            SupervisorDiedError: It is gone.
        """
        self._write([tuple(task) for task in tasks])

    def receive(self) -> tuple[int, Check]:
        """Wait for the next result and return it with the number of its task.

        Raises:
            SupervisorDiedError: It is gone, or is so late that it must be stuck.
        """
        try:
            if not self._channel.poll(self._patience):
                raise SupervisorDiedError
            number, *result = self._channel.recv()
        except (EOFError, ConnectionError):
            raise SupervisorDiedError from None
        return number, Check(*result)

    def stop(self) -> None:
        """End the process and its workers."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._channel.close()

    def _write(self, message: object) -> None:
        try:
            self._channel.send(message)
        except ConnectionError:
            raise SupervisorDiedError from None


def _start(channel: Connection, caller: int) -> subprocess.Popen[bytes]:
    path = json.dumps([os.path.abspath(folder) for folder in sys.path])
    descriptor = channel.fileno()
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOTSTRAP, path, str(descriptor), str(caller)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        # SymPy's order of terms follows the hash seed: the same answer, the same path, every time.
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
