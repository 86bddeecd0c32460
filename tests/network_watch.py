"""Watch what a command and everything it starts does to the network, native code included.

strace sees each system call, whoever makes it: a Python audit hook would miss torch, gRPC and
Rust. Beyond loopback nothing may be bound, connected or sent to, and no name may be asked for.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import psutil

from tests.conftest import missing

LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "(::1|::ffff:127\.[\d.]+)"')
# a resolver on loopback is one all the same; nss-resolve is asked through its socket
LOOKUP = re.compile(r"sin6?_port=htons\(53\)|io\.systemd\.Resolve")
CALLS = "bind,connect,sendto,sendmsg,sendmmsg"


def watching(log: Path) -> list[str]:
    """Return what comes before a command line to have it watched; its process id stays its own.

    Each thread has a file of its own, so that no line breaks off another: LOG.1234. Several
    commands may share a log.
    """
    if shutil.which("strace") is None:
        missing("strace", "no strace on this machine: apt-get install strace")
    quiet = ["-qqq", "--signal=none", "--seccomp-bpf", "-s", "0"]
    return ["strace", "-DDD", "-ff", *quiet, "-e", f"trace={CALLS}", "-A", "-o", str(log), "--"]


def calls_beyond_loopback(log: Path) -> list[str]:
    """Return the calls of watched commands that left this machine or asked for a name."""
    return [line for line in _lines(log) if _leaves(line)]


def listeners(log: Path) -> set[str]:
    """Return the internet addresses, less the ports, that watched commands bound."""
    bound = (line for line in _lines(log) if "bind(" in line and "sa_family=AF_INET" in line)
    return {match for line in bound for match in re.findall(r'"([\d.:a-f]+)"', line)}


def _lines(log: Path) -> list[str]:
    """Return thread and call of each line, once nothing that the commands started still runs."""
    _wait_for_the_last_line(log)
    files = log.parent.glob(f"{log.name}.*")
    return [
        f"{file.suffix[1:]} {line}"
        for file in files
        for line in file.read_text(errors="replace").splitlines()
    ]


def _wait_for_the_last_line(log: Path) -> None:
    end = time.monotonic() + 30
    while any(str(log) in words for words in _command_lines()):
        assert time.monotonic() < end, "something that the command started still runs"
        time.sleep(0.1)


def _command_lines() -> list[list[str]]:
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


def _leaves(line: str) -> bool:
    if LOOKUP.search(line):
        return True
    return "sa_family=AF_INET" in line and not LOOPBACK.search(line)
