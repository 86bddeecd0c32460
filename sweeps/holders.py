"""Who holds a lease: a process on a machine, and whether it is still there.

Process ids return. A process is known by its id and start time within one boot of one machine and
one pid namespace; whoever looks from elsewhere has nothing but its heartbeat.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Holder(NamedTuple):
    """A process: `started` in clock ticks after the boot, `space` its pid namespace."""

    host: str
    pid: int
    started: int
    boot: str
    space: str

    @property
    def name(self) -> str:
        """How it is shown: `HOST:PID`."""
        return f"{self.host}:{self.pid}"


def this_process() -> Holder:
    """Return the holder that this process is."""
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, _started(pid) or 0, _boot(), _space())


def is_neighbour(holder: Holder) -> bool:
    """Return whether a holder's process can be seen from here, where it runs at all."""
    return (holder.host, holder.boot, holder.space) == (socket.gethostname(), _boot(), _space())


def is_running(holder: Holder) -> bool:
    """Return whether the process of a neighbour is there, and not only its remains."""
    return holder.started == _started(holder.pid)


def _started(pid: int) -> int | None:
    """Return when a process began; None where there is none, or one that nobody has buried."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _space() -> str:
    return os.readlink("/proc/self/ns/pid")
