"""`prefect deployment run beta-sweep`: a deployment by its bare name, where only one bears it.

Prefect asks for FLOW/DEPLOYMENT. This plugin, which Prefect loads in this repository (see
`[tool.prefect.plugins]` in pyproject.toml), looks a name without a slash up among the deployments
first. `beta-sweep/beta-sweep` is the form that every Prefect understands.
"""

from __future__ import annotations

import functools
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.plugins import register_hook


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Teach Prefect's client bare names; called once by Prefect when it starts."""
    read = PrefectClient.read_deployment_by_name
    if not hasattr(read, "__wrapped__"):
        PrefectClient.read_deployment_by_name = _with_bare_names(read)


def _with_bare_names(read: Any) -> Any:
    @functools.wraps(read)
    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await read(self, name if "/" in name else await _full_name(self, name))

    return read_deployment_by_name


async def _full_name(client: PrefectClient, name: str) -> str:
    named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    found = await client.read_deployments(deployment_filter=named)
    full = [f"{(await client.read_flow(d.flow_id)).name}/{d.name}" for d in found]
    if len(full) > 1:
        raise ValueError(f"{len(full)} deployments are called {name!r}: write {' or '.join(full)}")
    return full[0] if full else f"{name}/{name}"
