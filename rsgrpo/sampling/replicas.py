"""Several servers of one policy: each request goes to the least loaded one that is up.

A server that fails is set aside for a while, longer each time, then tried with one request. Its
requests go to the others. When all of them have failed too often, that is the user's to mend.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsgrpo.config import ServingConfig
from rsgrpo.errors import UserError
from rsgrpo.sampling.completions import Choice, Fault, Unreachable
from rsgrpo.sampling.replica import Replica

FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds that a server which failed is left alone
AGAIN = "check it, then run the same command again; parts that are finished are kept"


class Replicas:
    """The servers of a `ServingConfig`, to be used in one `async with`."""

    def __init__(self, serving: ServingConfig, policy: str | Path | None = None) -> None:
        """Read the key from the environment; open nothing yet.

        Args:
            serving: Where they are.
            policy: What they shall serve, checked as far as they tell; None for anything.

        Raises:
            UserError: A url is no address, or the key is none that can be sent.
        """
        key = os.environ.get(serving.key_variable, "").strip() or None
        if key and not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the environment variable {serving.key_variable} holds a key with a character "
                "that cannot be sent: set it again"
            )
        self.serving = serving
        self.replicas = [Replica(url, serving, key, policy) for url in serving.urls]

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
