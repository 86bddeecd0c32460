"""A private PostgreSQL server: started, killed and started again by the test that needs it."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.conftest import missing

USER = "rsgrpo"


class Postgresql:
    """A server on 127.0.0.1 with a password, its data in a folder of its own.

    PostgreSQL refuses to run as root, and pytest's folders are closed to everybody else: under
    root, server and folder belong to an unprivileged user. `fsync` is left on, as users have it.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self.port, self.password = _free_port(), secrets.token_urlsafe(12)
        self._server: subprocess.Popen[bytes] | None = None
        self._create()

    @property
    def url(self) -> str:
        """The address of its first database, password and all."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its address."""
        import psycopg

        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def start(self) -> None:
        """Start the server, again on the same port where it ran before, and wait until it answers.

        After `kill` it first replays what was committed.
        """
        options = ("listen_addresses=127.0.0.1", f"port={self.port}", "max_connections=100")
        options += (f"unix_socket_directories={self.folder}",)
        words = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        with open(self.folder / "server.log", "ab") as log:
            self._server = subprocess.Popen(
                [*words, *(word for option in options for word in ("-c", option))],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_unprivileged(),  # type: ignore[arg-type]
            )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """Kill -9 the server and every process of a connection, and wait until they are gone."""
        assert self._server is not None, "it does not run"
        children = psutil.Process(self._server.pid).children(recursive=True)
        self._server.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._server.wait(10)
        psutil.wait_procs(children, 10)  # one that still holds the memory forbids a new start
        self._server = None

    def stop(self) -> None:
        """End the server, breaking off the connections that are open."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(30)
            self._server = None

    def _create(self) -> None:
        (self.folder / "password").write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, **_unprivileged())  # type: ignore[call-overload]
        words = ["-D", str(self.folder / "data"), "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        words += ["--pwfile", str(self.folder / "password"), "-E", "UTF8", "--locale", "C"]
        done = subprocess.run(
            [str(self.programs / "initdb"), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            **_unprivileged(),  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _wait_until_it_answers(self) -> None:
        import psycopg

        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as fault:
                ended = self._server is None or self._server.poll() is not None
                if ended or time.monotonic() > end:
                    raise AssertionError((self.folder / "server.log").read_text()) from fault
                time.sleep(0.1)


@contextlib.contextmanager
def postgresql_server() -> Iterator[Postgresql]:
    """Run a server until the block is left; without PostgreSQL the test is skipped."""
    programs = find_programs()
    if programs is None:
        missing("postgres", "no PostgreSQL server on this machine: apt-get install postgresql")
        return
    # not below pytest's own folder, which only its owner can enter; short enough for a socket
    with tempfile.TemporaryDirectory(prefix="rsgrpo-pg-") as folder:
        server = Postgresql(programs, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, the newest version's where it is not on PATH.

    Debian keeps them off PATH.
    """
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = [file.parent for file in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


def _unprivileged() -> dict[str, str]:
    """Return user and group that the server runs as, nothing where this process is not root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    return {"user": user, "group": user if user == "postgres" else "nogroup"}


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
