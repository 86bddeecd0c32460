"""A process that must not outlive the one that started it.

`python -m rsgrpo.lifeline PARENT COMMAND...` becomes the command, which then ends with PARENT: the
bond survives exec, so that a launcher which knows nothing of it is held by it too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent is gone, however that happens (Linux).

    Args:
        parent: The parent's process id; if it is gone already, this process ends here, at once and
            without clean-up, which a fork of another program must not run.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Become the command: arguments are the parent's process id and the command's words."""
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
