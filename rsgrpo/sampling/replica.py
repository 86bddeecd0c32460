"""One OpenAI-compatible server: what is sent to it, and what each of its answers means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rsgrpo.config import ServingConfig
from rsgrpo.errors import UserError, unknown
from rsgrpo.sampling.binding import policy_digest
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

GREETING_SECONDS = 30.0


class Replica:
    """One server: its address, its model's name there, how busy and how well it is."""

    def __init__(
        self, url: str, serving: ServingConfig, key: str | None, policy: str | Path | None
    ) -> None:
        """Open nothing yet.

        Raises:
            UserError: `url` is no address.
        """
        import httpx

        self.url = _root(url, serving.key_variable)
        self.serving, self.key, self.policy = serving, key, policy
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
            UserError: The model is not among them, which one is meant is open, or it is known to be
                another policy.
        """
        self.model = None
        status, answer = await self._ask("GET", "/v1/models", None, GREETING_SECONDS)
        if status == 404 and self.serving.model:
            self.model = self.serving.model
            return
        if status != 200:
            raise Fault(f"answered HTTP {status} when asked for its models")
        models = read_models(answer)
        self.models = [model.name for model in models]
        chosen = models[self.models.index(self._chosen_model())]
        refuse_other_policy(self.url, chosen.root, self.policy)
        self.model, self.is_vllm = chosen.name, chosen.is_vllm

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
            raise Unreachable(
                f"cannot be reached ({self._brief(str(fault) or repr(fault))})"
            ) from None
        except httpx.HTTPError as fault:
            raise Fault(f"broke off ({self._brief(str(fault) or repr(fault))})") from None
        if response.status_code in (401, 403):
            raise UserError(
                f"the server at {self.url} wants another key (HTTP {response.status_code}): put "
                f"it in the environment variable {self.serving.key_variable}"
            )
        return response.status_code, self._json(response)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except (ValueError, RecursionError):
            text = response.content.decode("utf-8", "replace")  # whatever encoding it claims
            if response.status_code == 200:
                raise Fault(f"answered no JSON ({self._brief(text)})") from None
            return text

    def _brief(self, answer: Any) -> str:
        return brief(_message(answer), self.key) or "no reason given"


def refuse_other_policy(url: str, root: str | None, policy: str | Path | None) -> None:
    """Raise a UserError where a server is known to serve something else than the policy.

    Args:
        url: The server's address.
        root: The folder or hub id that it says it loaded; None where it does not say.
        policy: The folder or hub id that is meant; None for any.
    """
    if root is None or policy is None or Path(root).is_dir() != Path(policy).is_dir():
        return
    same = Path(root).resolve() == Path(policy).resolve()
    if not same and (not Path(root).is_dir() or policy_digest(root) != policy_digest(policy)):
        raise UserError(
            f"the server at {url} serves {root}, not {policy}: serve that one, or name its server "
            "in serving.urls"
        )


def _root(url: str, key_variable: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or of brackets
        fits = False
    if not fits or not url.isprintable():
        raise UserError(f"serving.urls: {url!r} is no address: write http://HOST:PORT")
    if parts.username is not None:
        raise UserError(
            f"serving.urls: the address of {parts.hostname} holds a name or password, which would "
            f"be shown: leave it out, and put a key in the environment variable {key_variable}"
        )
    return url.rstrip("/").removesuffix("/v1")


def _message(answer: Any) -> str:
    """Return what an error answer says: OpenAI's form, FastAPI's, or the text itself."""
    found = answer
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)
