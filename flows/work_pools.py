"""`python -m flows.work_pools GPU_UNITS`: the work pools, their limits, and what ends dead runs.

Made again they are updated, so that this may run at every start.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.states import StateType
from prefect.workers.process import ProcessWorker

ORCHESTRATORS = 100
SILENCE = timedelta(seconds=120)
ZOMBIES = "rsgrpo: a run that is silent for two minutes has crashed"
ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed")


def make_work_pools(client: SyncPrefectClient, gpu_units: int) -> None:
    """Make or update the pools `cpu` and `gpu`.

    Args:
        client: A client of the Prefect server.
        gpu_units: How many units may run at a time over all workers of the pool `gpu`.
    """
    for name, limit in (("cpu", ORCHESTRATORS), ("gpu", gpu_units)):
        template = _template()
        try:
            client.read_work_pool(name)
            client.update_work_pool(
                name, WorkPoolUpdate(concurrency_limit=limit, base_job_template=template)
            )
        except ObjectNotFound:
            pool = WorkPoolCreate(
                name=name, type="process", concurrency_limit=limit, base_job_template=template
            )
            client.create_work_pool(pool)


def make_zombie_automation() -> None:
    """Have the server end runs whose heartbeat has stopped, which else hold their pool's place."""
    wanted = Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{ending}" for ending in ENDINGS),
            },
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat for two minutes: its process is gone.",
            )
        ],
    )
    try:
        found = Automation.read(name=ZOMBIES)
    except ValueError:
        wanted.create()
        return
    found.trigger, found.actions = wanted.trigger, wanted.actions
    found.update()


def _template() -> dict[str, Any]:
    template = ProcessWorker.get_default_base_job_template()
    # A worker that is killed must not take its flows along by closing the pipe of their output.
    template["variables"]["properties"]["stream_output"]["default"] = False
    return template


def main(arguments: list[str]) -> None:
    """Make everything on the server that PREFECT_API_URL names."""
    with get_client(sync_client=True) as client:
        make_work_pools(client, int(arguments[0]))
    make_zombie_automation()


if __name__ == "__main__":
    main(sys.argv[1:])
