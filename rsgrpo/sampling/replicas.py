"""Several servers of one policy: each request goes to the least loaded one that is up.

A server that fails is set aside for a while, longer each time, then tried with one request. Its
requests go to the others. When all of them have failed too often, that is the user's to mend.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rsgrpo.config import ServingConfig
from rsgrpo.errors import UserError, unknown
from rsgrpo.sampling.completions import (
    PLAIN_SAMPLING,
    Choice,
    Fault,
    Unreachable,
    brief,
    read_choices,
    read_models,
)

if TYPE_CHECKING:
    import httpx

FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds that a server which failed is left alone
GREETING_SECONDS = 30.0
AGAIN = "check it, then run the same command again; parts that are finished are kept"


class Replica:
    """One server: its address, its model's name there, how busy and how well it is."""

    def __init__(self, url: str, serving: ServingConfig, key: str | None) -> None:
        """Open nothing yet.

        Raises:
            UserError: `url` is no address.
        """
        import httpx

        self.url = _root(url)
        self.serving, self.key = serving, key
        self.model: str | None = None
        self.models: list[str] = []
        self.is_vllm = False
        self.gives_logprobs = True
        self.busy, self.failures = 0, 0
        self.rests_until = self.failed_at = -1.0
        self.client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=serving.in_flight + 1),
            timeout=None,
            trust_env=urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    async def greet(self) -> None:
        """Ask which models there are, and choose.

        Raises:
            Fault: It does not answer as it should.
            UserError: The model is not among them, or which one is meant is open.
        """
        self.model = None
        status, answer = await self._ask("GET", "/v1/models", None, GREETING_SECONDS)
        if status == 404 and self.serving.model:
            self.model = self.serving.model
            return
        if status != 200:
            raise Fault(f"answered HTTP {status} when asked for its models")
        self.models, self.is_vllm = read_models(answer)
        self.model = self._chosen_model()

    def _chosen_model(self) -> str:
        wanted = self.serving.model
        if wanted in self.models:
            return str(wanted)
        if wanted:
            raise UserError(f"{unknown('model', wanted, self.models)} (at {self.url})")
        if len(self.models) != 1:
            names = ", ".join(self.models) or "none"
            raise UserError(
                f"the server at {self.url} lists these models: {names}; set one in serving.model"
            )
        return self.models[0]

    async def complete(self, body: Mapping[str, Any]) -> list[Choice]:
        """Send one request of completions.

        Raises:
            Fault: It does not answer as it should, or not in time.
            UserError: It refuses: the key, the model, or a setting.
        """
        if self.model is None:
            await self.greet()
        full = self._full(body)
        status, answer = await self._ask("POST", "/v1/completions", full)
        if status == 400 and "logprobs" in full and "logprob" in _message(answer):
            self.gives_logprobs = False
            status, answer = await self._ask("POST", "/v1/completions", self._full(body))
        if status == 404:
            known = ", ".join(self.models) or "none that it lists"
            raise UserError(
                f"the server at {self.url} does not complete with the model {self.model} "
                f"({self._brief(answer)}; its models: {known}): set serving.model"
            )
        if status in (400, 413, 422):
            raise UserError(
                f"the server at {self.url} refuses the request ({self._brief(answer)}): change the "
                "setting that it names"
            )
        if status != 200:
            raise Fault(f"answered HTTP {status} ({self._brief(answer)})")
        return read_choices(answer)

    def _full(self, body: Mapping[str, Any]) -> dict[str, Any]:
        full = {"model": self.model, **body}
        if self.gives_logprobs:
            full["logprobs"] = 0 if self.is_vllm else 1  # vLLM adds the token's own to these many
        return {**full, **PLAIN_SAMPLING} if self.is_vllm else full

    async def _ask(
        self, method: str, path: str, body: Any, seconds: float | None = None
    ) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        import httpx

        limit = min(self.serving.timeout, seconds or self.serving.timeout)
        try:
            async with asyncio.timeout(limit):
                response = await self.client.request(method, path, json=body)
        except TimeoutError:
            raise Fault(f"did not answer within {limit:g} s") from None
        except httpx.ConnectError as fault:
            raise Unreachable(f"cannot be reached ({self._brief(repr(fault))})") from None
        except httpx.HTTPError as fault:
            raise Fault(f"broke off ({self._brief(repr(fault))})") from None
        if response.status_code in (401, 403):
            raise UserError(
                f"the server at {self.url} wants another key (HTTP {response.status_code}): put "
                f"it in the environment variable {self.serving.key_variable}"
            )
        return response.status_code, self._json(response)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            if response.status_code == 200:
                raise Fault(f"answered no JSON ({self._brief(response.text)})") from None
            return response.text

    def _brief(self, answer: Any) -> str:
        return brief(_message(answer), self.key) or "no reason given"


class Replicas:
    """The servers of a `ServingConfig`, to be used in one `async with`."""

    def __init__(self, serving: ServingConfig) -> None:
        """Read the key from the environment; open nothing yet.

        Raises:
            UserError: A url is no address.
        """
        key = os.environ.get(serving.key_variable) or None
        self.serving = serving
        self.replicas = [Replica(url, serving, key) for url in serving.urls]

    async def __aenter__(self) -> Replicas:
        """Greet all of them.

        Raises:
            UserError: None of them answers, or one refuses.
        """
        try:
            faults = await asyncio.gather(*map(self._greet, self.replicas))
            if all(faults):
                raise UserError(
                    f"the server at {self.replicas[0].url} {faults[0]}: start one with rsgrpo "
                    "serve MODEL, or name another in serving.urls"
                )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        for replica in self.replicas:
            await replica.client.aclose()

    async def _greet(self, replica: Replica) -> Fault | None:
        try:
            await replica.greet()
        except Fault as fault:
            self._set_aside(replica, _now())
            return fault
        return None

    async def complete(self, body: Mapping[str, Any], what: str) -> tuple[str, list[Choice]]:
        """Return the address of the server that answered a request, and its completions.

        Args:
            body: The request, but for the model and for what only some servers know.
            what: What is asked for, named in a sentence where it fails again and again.

        Raises:
            UserError: A server refuses the request, or it failed on every attempt.
        """
        attempts = 0
        while True:
            replica = await self._free_replica()
            began = _now()
            try:
                choices = await replica.complete(body)
            except Fault as fault:
                self._set_aside(replica, began)
                attempts += not isinstance(fault, Unreachable)
                lost = all(other.failures > self.serving.retries for other in self.replicas)
                if lost or attempts > self.serving.retries:
                    raise UserError(self._sentence(what, replica, fault, lost)) from None
            else:
                replica.failures = 0
                return replica.url, choices
            finally:
                replica.busy -= 1

    def _sentence(self, what: str, replica: Replica, fault: Fault, lost: bool) -> str:
        tries, servers = self.serving.retries + 1, len(self.replicas)
        of_all = f" and none of the {servers} servers is left" if lost and servers > 1 else ""
        return f"{what}: the server at {replica.url} {fault}, {tries} times{of_all}: {AGAIN}"

    async def _free_replica(self) -> Replica:
        """Wait for a server that may have one more request; one that failed last gets only one."""
        while True:
            free = [replica for replica in self.replicas if self._has_room(replica)]
            if free:
                chosen = min(free, key=lambda replica: replica.busy)
                chosen.busy += 1
                return chosen
            await asyncio.sleep(random.uniform(0.02, 0.1))

    def _has_room(self, replica: Replica) -> bool:
        room = 1 if replica.failures else self.serving.in_flight
        return replica.busy < room and replica.rests_until <= _now()

    def _set_aside(self, replica: Replica, began: float) -> None:
        """Let a server rest; requests that were on their way when it failed count once."""
        if began >= replica.failed_at:
            replica.failures += 1
            rest = min(FIRST_REST * 2 ** (replica.failures - 1), LONGEST_REST)
            replica.failed_at = _now()
            replica.rests_until = replica.failed_at + rest * random.uniform(0.5, 1.5)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _root(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"serving.urls: {url!r} is no address: write http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def _message(answer: Any) -> str:
    """Return what an error answer says: OpenAI's form, FastAPI's, or the text itself."""
    found = answer
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)
