"""A small completions server that answers by the request alone, and misbehaves as it is told.

`python small_server.py PORT LOG DELAY` serves in a process of its own and writes each request down.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Body = dict[str, Any]
Answer = tuple[int, bytes]
Behave = Callable[[Body], Answer]


def choice(body: Body, index: int) -> dict[str, Any]:
    """One completion, the same for the same prompt, seed and index wherever it is drawn."""
    digest = hashlib.sha256(f"{body['prompt']}/{body['seed'] + index}".encode()).digest()
    length = 1 + digest[0] % body["max_tokens"]
    logprobs = {"token_logprobs": [-value / 64 for value in digest[:length]]}
    return {
        "index": index,
        "text": digest.hex()[:length],
        "finish_reason": "length" if length == body["max_tokens"] else "stop",
        "logprobs": logprobs if "logprobs" in body else None,
    }


def completion(body: Body, n: int | None = None) -> Body:
    """The answer of a server that does what it is asked, or returns only `n` choices."""
    choices = [choice(body, index) for index in range(body["n"] if n is None else n)]
    return {"choices": choices, "usage": {"completion_tokens": len(choices[0]["text"])}}


def well(body: Body) -> Answer:
    return 200, json.dumps(completion(body)).encode()


class SmallServer(ThreadingHTTPServer):
    """Keeps the requests that it got, and how many it had at a time."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, port: int, behave: Behave, models: list[Body]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave, self.models = behave, models
        self.requests: list[Body] = []
        self.keys: set[str | None] = set()
        self.at_work = self.most_at_work = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallServer

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": self.server.models}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(body)
            server.keys.add(self.headers["Authorization"])
            server.at_work += 1
            server.most_at_work = max(server.most_at_work, server.at_work)
        try:
            self._send(*server.behave(body))
        finally:
            with server.lock:
                server.at_work -= 1

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def small_server(behave: Behave = well, models: list[Body] | None = None) -> Iterator[SmallServer]:
    server = SmallServer(0, behave, [{"id": "tiny"}] if models is None else models)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    port, log, delay = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

    def behave(body: Body) -> Answer:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([body["prompt"], body["n"], body["seed"]]) + "\n")
        time.sleep(delay)
        return well(body)

    server = SmallServer(port, behave, [{"id": "tiny"}])
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
