from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from rsgrpo.tracking.progress import load_offsets, only_sender, save_offsets


def test_offsets_are_kept_for_each_store(tmp_path: Path) -> None:
    save_offsets(tmp_path, "a", {"spool.jsonl": 10})
    save_offsets(tmp_path, "b", {"spool.jsonl": 20})
    save_offsets(tmp_path, "a", {"spool.jsonl": 30})
    assert load_offsets(tmp_path, "a") == {"spool.jsonl": 30}
    assert load_offsets(tmp_path, "b") == {"spool.jsonl": 20}
    assert load_offsets(tmp_path, "c") == {}
    assert [path.name for path in tmp_path.iterdir()] == [".sync.json"]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_spoilt_file_means_that_nothing_is_known(tmp_path: Path, content: str) -> None:
    (tmp_path / ".sync.json").write_text(content)
    assert load_offsets(tmp_path, "a") == {}


def test_a_full_disk_leaves_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_offsets(tmp_path, "a", {"spool.jsonl": 10})

    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError) as caught:
        save_offsets(tmp_path, "a", {"spool.jsonl": 20})
    assert caught.value.filename == str(tmp_path / ".sync.json")
    assert load_offsets(tmp_path, "a") == {"spool.jsonl": 10}


def test_a_second_sender_waits(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with only_sender(tmp_path):
            entered.set()

    with only_sender(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set()
