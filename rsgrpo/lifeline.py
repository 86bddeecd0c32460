"""A process that must not outlive the one that started it.

`python -m rsgrpo.lifeline PARENT COMMAND...` becomes the command, which then ends with PARENT: the
bond survives exec, so that a launcher which knows nothing of it is held by it too. With `--group`
the command's whole process group ends with PARENT, for a server whose own children know no bond.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_LAUNCHER = "RSGRPO_LAUNCHER"


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent is gone, however that happens (Linux).

    Args:
        parent: The parent's process id; if it is gone already, this process ends here, at once and
            without clean-up, which a fork of another program must not run.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def parent_of_this() -> int:
    """Return the process that this one belongs to: a rank's launcher, or else its parent."""
    launcher = int(os.environ.get(_LAUNCHER, "0"))
    return launcher if launcher not in (0, os.getpid()) else os.getppid()


def end_group_with(parent: int) -> None:
    """Leave a process behind that kills this one's group when the parent or this one is gone.

    Args:
        parent: The process id to watch.
    """
    this = os.getpid()
    if os.fork():
        return
    with suppress(ProcessLookupError):  # one that is gone already needs no watching
        select.select([os.pidfd_open(parent), os.pidfd_open(this)], [], [])
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Become the command: arguments are the parent's process id and the command's words."""
    arguments = sys.argv[1:]
    group = arguments[0] == "--group"
    parent, *command = arguments[group:]
    if group:
        end_group_with(int(parent))
    die_with_parent(int(parent))
    os.environ[_LAUNCHER] = str(os.getpid())  # what a rank asks for whose launcher is gone already
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
