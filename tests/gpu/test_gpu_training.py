"""Training on a GPU through the same verbs: bf16, 100M parameters, pre-trained on the spot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsgrpo.tracking.spool import read_spool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

# A Llama of 99 million parameters that speaks Countdown.
SIZES = [
    "policy.hidden_size=768",
    "policy.layers=14",
    "policy.heads=12",
    "policy.mlp_size=2048",
    "policy.pretrain.steps=300",
    "policy.pretrain.learning_rate=3e-4",
    "training.steps=10",
    "training.save_every=5",
    "training.learning_rate=1e-5",
    "sampling.n=16",
]


def rsgrpo(*arguments: str) -> str:
    overrides = [word for override in SIZES for word in ("--set", override)]
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", *arguments, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_policy_of_100_million_parameters_is_trained_in_bf16(tmp_path: Path) -> None:
    from rsgrpo.config import load_config
    from rsgrpo.policy.load import load_policy
    from rsgrpo.training.train import trainer_arguments

    folder = Path(rsgrpo("train", "--out", str(tmp_path)).strip().splitlines()[-1])
    model, _ = load_policy(folder)
    parameters = sum(weight.numel() for weight in model.parameters())
    assert 90e6 < parameters < 110e6
    records = [r["values"] for r in read_spool(folder / "spool.jsonl") if r["kind"] == "metrics"]
    assert len(records) == 10
    speeds = sorted(values["tokens_per_second"] for values in records[1:])
    memory = max(values["peak_memory_gib"] for values in records)
    print(
        f"\n{torch.cuda.get_device_name()}: {parameters:,} parameters, "
        f"{speeds[len(speeds) // 2]:,.0f} tokens/s (median of {len(speeds)} steps), "
        f"peak memory {memory:.2f} GiB"
    )
    assert memory > 16 * parameters / 2**30  # weights, gradients, both moments in float32
    assert trainer_arguments(load_config(None, SIZES).training, tmp_path).bf16
    trained = [str(folder), "--out", str(tmp_path), "--json"]
    rows = json.loads(rsgrpo("evaluate", *trained))
    assert {row["n_samples"] for row in rows} == {16}
    assert {row["method"] for row in rows} == {"rs_grpo"}
