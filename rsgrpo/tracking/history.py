"""The metric history of runs that are still at work: one metric of many runs at a time.

MLflow's client asks for one metric of one run. Its server answers for a hundred runs at once to its
own pages, and its database store for any number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUNS_PER_REQUEST = 100
# The most numbers of one answer; the server leaves out the rest without a word.
POINTS_PER_REQUEST = 25_000
# MLflow's databases hold infinities as the largest number.
_LARGEST = 1.7976931348623157e308

Row = tuple[str, int, float, int]


def metric_histories(
    client: MlflowClient, uri: str, runs: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the numbers of runs from their metric history.

    Args:
        client: MLflow's client.
        uri: The store that it speaks to.
        runs: MLflow's id of each run -> its metrics.

    Returns:
        For each run a `pyarrow.Table` with the columns step, metric, value and time.
    """
    by_metric: dict[str, list[str]] = defaultdict(list)
    for run, metrics in runs.items():
        for metric in metrics:
            by_metric[metric].append(run)
    columns: dict[str, dict[str, list[Any]]] = {
        run: {"step": [], "metric": [], "value": [], "time": []} for run in runs
    }
    for metric, of_runs in by_metric.items():
        for begin in range(0, len(of_runs), RUNS_PER_REQUEST):
            some = of_runs[begin : begin + RUNS_PER_REQUEST]
            for run, step, value, time in _history(client, uri, metric, some):
                row = {"step": step, "metric": metric, "value": _infinite(value), "time": time}
                for name, item in row.items():
                    columns[run][name].append(item)
    return {run: _table(of_run) for run, of_run in columns.items()}


def _history(client: MlflowClient, uri: str, metric: str, runs: Sequence[str]) -> list[Row]:
    if len(runs) == 1:
        points = client.get_metric_history(runs[0], metric)
        return [(runs[0], p.step, p.value, p.timestamp) for p in points]
    served = uri.startswith(("http://", "https://"))
    rows = _ask_server(uri, metric, runs) if served else _ask_store(client, metric, runs)
    if len(rows) < POINTS_PER_REQUEST:
        return rows
    half = len(runs) // 2
    first, second = runs[:half], runs[half:]
    return [*_history(client, uri, metric, first), *_history(client, uri, metric, second)]


def _ask_server(uri: str, metric: str, runs: Sequence[str]) -> list[Row]:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

    wanted = {"run_id": list(runs), "metric_key": metric, "max_results": POINTS_PER_REQUEST}
    place = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    response = http_request(get_default_host_creds(uri), place, "GET", params=wanted)
    augmented_raise_for_status(response)
    points = response.json()["metrics"]
    return [(p["run_id"], int(p["step"]), float(p["value"]), int(p["timestamp"])) for p in points]


def _ask_store(client: MlflowClient, metric: str, runs: Sequence[str]) -> list[Row]:
    store = client._tracking_client.store
    points = store.get_metric_history_bulk(list(runs), metric, POINTS_PER_REQUEST)
    rows = [point.to_dict() for point in points]
    return [(row["run_id"], row["step"], row["value"], row["timestamp"]) for row in rows]


def _infinite(value: float) -> float:
    return value * 10 if abs(value) == _LARGEST else value


def _table(columns: Mapping[str, list[Any]]) -> Any:
    import pyarrow as pa

    types = {"step": pa.int64(), "metric": pa.string(), "value": pa.float64(), "time": pa.int64()}
    return pa.table(dict(columns), schema=pa.schema(list(types.items())))
