"""Run a Python program and report what it opened: sockets, databases, tracking libraries.

    python watch_opens.py REPORT.json (SCRIPT | -m MODULE) [ARGUMENT ...]

REPORT.json is rewritten at every finding, so that it stands even after kill -9: a list of
[event, detail], empty for a program that kept to plain files. Programs started by the program are
findings too, as [subprocess.Popen, command]: this hook does not see what they open.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

DATABASE_ENDINGS = (".db", ".db-journal", ".db-wal", ".db-shm", ".sqlite", ".sqlite3")


def watch(report: Path) -> None:
    """Install an audit hook that writes its findings to `report`."""
    findings: list[list[str]] = []
    report.write_text("[]")
    # The hook stays to the very end of the interpreter, when `open` may be gone.
    file = open(report, "r+")  # noqa: SIM115

    def note(event: str, detail: object) -> None:
        findings.append([event, str(detail)])
        file.seek(0)
        file.write(json.dumps(findings))
        file.flush()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        first = str(arguments[0]) if arguments else ""
        if event.startswith(("socket.", "sqlite3.")) or event == "subprocess.Popen":
            note(event, arguments[1:] or first)
        elif (event == "open" and first.endswith(DATABASE_ENDINGS)) or (
            event == "import" and first == "mlflow"
        ):
            note(event, first)

    sys.addaudithook(hook)


def main() -> None:
    """Watch the program named on the command line."""
    report, *command = sys.argv[1:]
    watch(Path(report))
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path.insert(0, "")
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
