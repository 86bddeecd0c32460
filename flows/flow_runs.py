"""Flow runs of a deployment as their Prefect server knows them, which may be away for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed

from rsgrpo.errors import UserError

REQUEST_SECONDS = 10.0
BUSY = (408, 429)
PAGE = 200  # the most that a server returns at a time


class ServerAway(Exception):
    """The server does not answer now; the same call later does no harm."""


class FlowRuns:
    """Begins flow runs of one deployment, reads their states, cancels them."""

    def __init__(self, deployment: str) -> None:
        """Take the deployment's name, FLOW/DEPLOYMENT; nothing is asked of the server yet."""
        self._deployment = deployment
        self._id: UUID | None = None
        self._client: SyncPrefectClient | None = None

    @property
    def server(self) -> str:
        """The server's address."""
        return str(get_current_settings().api.url)

    def begin(self, key: str, name: str, parameters: Mapping[str, Any]) -> UUID:
        """Begin a flow run, or find the one that was begun with this key and is not over.

        Asked twice with the same key, also by two processes, the server begins one run; only where
        that is over or being cancelled, another is begun.

        Args:
            key: What is to be run, unique on the server.
            name: The flow run's name.
            parameters: The flow's.

        Raises:
            ServerAway: It does not answer.
            UserError: There is no such deployment, or the server refuses.
        """
        with self._asked() as client:
            for attempt in count():
                run = client.create_flow_run_from_deployment(
                    self._deployment_id(client),
                    name=name,
                    parameters=dict(parameters),
                    idempotency_key=f"{key}-{attempt}",
                )
                if run.state is None or not _is_ending(run.state):
                    return run.id
        raise AssertionError

    def states(self, runs: Sequence[UUID]) -> dict[UUID, State]:
        """Return the state of each run, with one request for 200; one that was deleted crashed.

        Raises:
            ServerAway: It does not answer.
        """
        found: dict[UUID, State] = dict.fromkeys(runs, Crashed(message="its flow run was deleted"))
        with self._asked() as client:
            for first in range(0, len(runs), PAGE):
                page = list(runs[first : first + PAGE])
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=page))
                for run in client.read_flow_runs(flow_run_filter=wanted, limit=PAGE):
                    if run.state is not None:
                        found[run.id] = run.state
        return found

    def cancel(self, run: UUID) -> None:
        """Have a run cancelled by its worker, one that nobody has taken at once.

        Raises:
            ServerAway: It does not answer.
        """
        self._set(run, Cancelling())

    def crash(self, run: UUID, message: str) -> None:
        """Say of a run that its process is gone, which frees its worker's place.

        Raises:
            ServerAway: It does not answer.
        """
        now = self._set(run, Crashed(message=message))
        if now is not None and now.type == StateType.CANCELLING:  # may become nothing but this
            self._set(run, Cancelled(message=message))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.__exit__(None, None, None)
            self._client = None

    def _set(self, run: UUID, state: State) -> State | None:
        """Propose a state; return the one that the run has then, None of one that was deleted."""
        with self._asked() as client:
            try:
                return client.set_flow_run_state(run, state).state
            except ObjectNotFound:
                return None

    def _deployment_id(self, client: SyncPrefectClient) -> UUID:
        if self._id is None:
            try:
                self._id = client.read_deployment_by_name(self._deployment).id
            except ObjectNotFound:
                raise UserError(
                    f"the Prefect server at {self.server} has no deployment {self._deployment}: "
                    "deploy the flows with `prefect deploy --all` in the checkout"
                ) from None
        return self._id

    @contextmanager
    def _asked(self) -> Iterator[SyncPrefectClient]:
        # The client's own retries would block for a minute; who calls this comes again anyway.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            try:
                yield self._connected()
            except httpx.HTTPStatusError as fault:
                status = fault.response.status_code
                if status >= 500 or status in BUSY:
                    raise ServerAway(f"status {status}") from fault
                raise UserError(
                    f"the Prefect server at {self.server} refuses with status {status}: look at "
                    "PREFECT_API_URL and its credentials, then deploy the flows again with "
                    "`prefect deploy --all`"
                ) from fault
            except (httpx.TransportError, OSError) as fault:
                self.close()
                raise ServerAway(str(fault)) from fault

    def _connected(self) -> SyncPrefectClient:
        if self._client is None:
            settings = {"timeout": REQUEST_SECONDS}
            self._client = get_client(httpx_settings=settings, sync_client=True).__enter__()
        return self._client


def _is_ending(state: State) -> bool:
    """Whether a run is over or will be: one being cancelled may stay so where its worker died."""
    return state.is_final() or state.type == StateType.CANCELLING
