"""Start a sender again and again and kill it at random moments, until one gets through.

    python kill_senders.py ROOT STORE KILLS SEED

Prints how many were killed at work. The senders are forks, so that none spends its time on imports.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import mlflow.tracking  # noqa: F401

from rsgrpo.tracking.sender import main


def start(root: Path, store: str) -> int:
    child = os.fork()
    if child == 0:
        os._exit(main([str(root), "--tracking-uri", store]))
    return child


def kill_later(child: int, seconds: float) -> bool:
    """Kill a child after a while; say whether it was still at work."""
    time.sleep(seconds)
    done, _ = os.waitpid(child, os.WNOHANG)
    if done:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


if __name__ == "__main__":
    root, store, kills, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    moments = random.Random(seed)
    killed = sum(kill_later(start(root, store), moments.uniform(0.05, 0.9)) for _ in range(kills))
    _, status = os.waitpid(start(root, store), 0)
    print(killed)
    sys.exit(os.waitstatus_to_exitcode(status))
