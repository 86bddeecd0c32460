"""Serving: what is refused, what is said when a server dies, and that all of it ends with us."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsgrpo.errors import UserError
from rsgrpo.sampling import serve
from rsgrpo.sampling.serve import serving
from rsgrpo.sampling.vllm import device_shares, memory_arguments, own_dtype, reason_of

# In the place of vLLM's interpreter: a server with a child of its own, as vLLM has.
STAND_IN = f"""#!{sys.executable}
import http.server, json, os, subprocess, sys
arguments = dict(zip(sys.argv[3::2], sys.argv[4::2]))
assert sys.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"], sys.argv
assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["DO_NOT_TRACK"] == "1"
assert os.environ["HF_HUB_OFFLINE"] == "1"
if "--die" in arguments:
    print("(Worker pid=7) ERROR 11-25 21:45:57 [x.py:953] ValueError: head size 16 is unsupported")
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(json.dumps([child.pid, *sys.argv[3:]]).encode())

http.server.HTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    file = tmp_path / "python"
    file.write_text(STAND_IN, encoding="utf-8")
    file.chmod(0o755)
    return file


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def get(url: str) -> list[Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        found: list[Any] = json.load(answer)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_cannot_be_served_is_refused_in_one_sentence(
    policy: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(model: str | Path, **more: Any) -> str:
        with pytest.raises(UserError) as fault, serving(model, **{"python": python, **more}):
            pass
        return str(fault.value)

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "the policy ./nothing is no folder" in refusal("./nothing")
    assert "the policy empty/nothing is no folder" in refusal("empty/nothing")
    assert "holds no config.json" in refusal(tmp_path / "empty")
    assert "run make vllm" in refusal(policy, python=tmp_path / "no-python")
    monkeypatch.setenv("RSGRPO_VLLM", str(tmp_path / "nowhere"))
    assert f"{tmp_path}/nowhere/bin/python: run make vllm" in refusal(policy, python=None)
    assert "--host is set by rsgrpo serve itself" in refusal(policy, extra=["--host=0.0.0.0"])
    assert "a checkpoint's own code" in refusal(policy, extra=["--trust_remote_code"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "3 replicas need as many GPUs, and there are 2" in refusal(policy, replicas=3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be had" in refusal(policy, port=port, replicas=1)


def test_each_server_has_a_port_and_its_share_of_the_gpus() -> None:
    assert device_shares(["0", "1", "2", "3"], 2) == [["0", "1"], ["2", "3"]]
    assert device_shares([], 2) == [[], []]
    assert memory_arguments([["0"]], []) == []
    assert memory_arguments([[], []], []) == ["--gpu-memory-utilization", "0.150"]
    assert memory_arguments([[]], ["--gpu_memory_utilization=0.1"]) == []


def test_a_checkpoint_is_served_in_its_own_dtype(policy: Path) -> None:
    (policy / "config.json").write_text('{"dtype": "float32"}', encoding="utf-8")
    assert own_dtype(str(policy), "auto") == "float32"
    assert own_dtype(str(policy), "bfloat16") == "bfloat16"
    (policy / "config.json").write_text('{"torch_dtype": "bfloat16"}', encoding="utf-8")
    assert own_dtype(str(policy), "auto") == "bfloat16"
    assert own_dtype("owner/name", "auto") == "auto"
    (policy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json is no JSON"):
        own_dtype(str(policy), "auto")


def test_servers_are_ready_in_the_body_and_gone_after_it_with_their_children(
    policy: Path, python: Path
) -> None:
    with serving(policy, replicas=2, python=python, extra=["--seed", "3"]) as servers:
        told = [get(url) for url in servers.urls]
        assert len(set(servers.urls)) == 2
        for child, *words in told:
            options = dict(zip(words[::2], words[1::2], strict=True))
            assert (options["--host"], options["--model"]) == ("127.0.0.1", str(policy.resolve()))
            assert (options["--generation-config"], options["--seed"]) == ("vllm", "3")
            assert "--trust-remote-code" not in options and not gone(child)
    for server, (child, *_) in zip(servers.replicas, told, strict=True):
        assert server.process.poll() is not None
        wait_until(lambda child=child: gone(child))
        assert not server.log.exists()


def test_a_server_that_dies_at_its_start_is_one_sentence_with_the_cause(
    policy: Path, python: Path
) -> None:
    with pytest.raises(UserError) as fault, serving(policy, python=python, extra=["--die", "1"]):
        pass
    assert "ended at its start (ValueError: head size 16 is unsupported): see" in str(fault.value)
    assert Path(str(fault.value).split("log ")[1]).is_file()


def test_the_cause_is_read_out_of_a_log() -> None:
    assert reason_of("") == "it said nothing"
    assert reason_of("loading\nlast words\n\n") == "last words"
    usage = "usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --moddel\n"
    assert reason_of(usage) == "api_server.py: error: unrecognized arguments: --moddel"


def test_the_others_go_on_without_a_server_that_is_killed(policy: Path, python: Path) -> None:
    warnings: list[str] = []

    def kill_next(sentence: str) -> None:
        warnings.append(sentence)
        servers.replicas[1].process.kill()

    with serving(policy, replicas=2, python=python) as servers:
        child = get(servers.urls[0])[0]
        servers.replicas[0].process.kill()
        with pytest.raises(UserError, match=f"{servers.urls[1]} ended while it served"):
            serve.watch(servers, kill_next)
        wait_until(lambda: gone(child))
    assert len(warnings) == 1 and servers.urls[0] in warnings[0]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_the_verb_takes_its_servers_along_however_it_ends(
    number: signal.Signals, status: int, policy: Path, python: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("rsgrpo"), "serve", policy, "--python", python]
    verb = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert verb.stdout and verb.stderr
    assert verb.stdout.readline().strip() == f"http://127.0.0.1:{port}"
    child = get(f"http://127.0.0.1:{port}")[0]
    group = os.getpgid(child)
    verb.send_signal(number)
    assert verb.wait(20) == status
    wait_until(lambda: not [p for p in psutil.pids() if not gone(p) and _group(p) == group])
    said = verb.stderr.read()
    assert said.startswith("waiting for the server: 0 s")
    assert said.endswith("stopped\n") == (number != signal.SIGKILL)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_free_ports_are_distinct() -> None:
    assert len(set(serve._free_ports(500))) == 500


def test_what_speaks_no_http_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def mumble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=mumble)
        thread.start()
        process: Any = None
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert not serve._is_healthy(serve.Server(url, process, Path("log")))
        thread.join()
