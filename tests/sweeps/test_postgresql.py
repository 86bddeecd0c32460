"""The PostgreSQL server that tests bring along: private, killable, and what it holds stays."""

from __future__ import annotations

import os

import psutil
import pytest

from tests.postgresql import Postgresql

psycopg = pytest.importorskip("psycopg")


def test_what_was_committed_outlives_a_kill(postgresql: Postgresql) -> None:
    with psycopg.connect(postgresql.url) as connection:
        connection.execute("CREATE TABLE kept (number integer)")
        connection.execute("INSERT INTO kept VALUES (7)")
    held = psycopg.connect(postgresql.url)
    postgresql.kill()
    with pytest.raises(psycopg.OperationalError):
        held.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgresql.url, connect_timeout=5)
    postgresql.start()
    with psycopg.connect(postgresql.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_it_listens_on_loopback_alone_asks_for_a_password_and_is_not_root(
    postgresql: Postgresql,
) -> None:
    processes = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(postgresql.folder) in " ".join(process.info["cmdline"] or ())
    ]
    listening = {
        connection.laddr
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", postgresql.port)}
    assert 0 not in {process.uids().effective for process in processes}
    url = postgresql.url.replace(postgresql.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, connect_timeout=5)


def test_each_test_gets_an_empty_database(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(tables).fetchone() == (0,)
    assert os.environ.get("PGPASSWORD") is None
