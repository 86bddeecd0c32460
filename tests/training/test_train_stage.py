"""The training stage: what it records, how it resumes, what it never touches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.config_training import ScheduleConfig
from rsgrpo.data.jsonl import read_rows
from rsgrpo.errors import UserError
from rsgrpo.nodes import node_to_json
from rsgrpo.stages import find, run
from rsgrpo.study import base_policy, run_identity, trained_run
from rsgrpo.tracking.spool import read_spool
from rsgrpo.training.train import train, trainer_arguments, translated
from tests.conftest import TINY

TOOLS = Path(__file__).parents[1] / "tracking"


@pytest.fixture(scope="module")
def base(tiny_config: Config, tiny_root: Path) -> tuple[Path, Path]:
    """Prepared data and base policy."""
    policy = base_policy(tiny_config)
    trained = run(tiny_root, policy)
    return run(tiny_root, policy.inputs["data"]), trained


def train_into(out: Path, config: Config, base: tuple[Path, Path]) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    train(config, data=base[0], policy=base[1], identity=run_identity(config), out=out)
    return list(read_spool(out / "spool.jsonl"))


def test_each_step_is_recorded_with_its_unfiltered_first_pass(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path]
) -> None:
    records = train_into(tmp_path / "run", tiny_config, base)
    metrics = [record for record in records if record["kind"] == "metrics"]
    assert [record["step"] for record in metrics] == [1, 2, 3, 4]
    wanted = {
        "reward",
        "pass_at_1",
        "pass_at_8",
        "frac_all_fail",
        "frac_all_pass",
        "entropy",
        "mean_abs_advantage",
        "grad_norm",
        "completion_length",
        "tokens_per_second",
        "kept_share",
        "risk_beta",
        "filtered_reward",
    }
    for record in metrics:
        values = record["values"]
        assert wanted <= values.keys()
        silent = values["frac_all_fail"] + values["frac_all_pass"]
        assert values["kept_share"] == pytest.approx(1 - silent)
        assert values["pass_at_1"] == pytest.approx(values["reward"])
        assert values["pass_at_8"] == pytest.approx(1 - values["frac_all_fail"])
    shapes = [record for record in records if record["kind"] == "table"]
    assert [shape["step"] for shape in shapes] == [1, 2, 4]
    assert sum(shapes[0]["data"]["groups"]) == 8
    assert records[-1] == {**records[-1], "kind": "end", "status": "FINISHED"}
    [prompt] = [r["path"] for r in records if str(r.get("path", "")).endswith("prompt.txt")]
    first = next(read_rows(base[0] / "train.jsonl", ("problem",)))[1]["problem"]
    assert (tmp_path / "run" / prompt).read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ({"schedule": "constant", "start": 3}, [3, 3, 3, 3]),
        ({"schedule": "linear", "start": 8, "end": 0}, [8, 6, 4, 2]),
        ({"schedule": "cosine", "start": 8, "end": 0}, [8, 4 + 8**0.5, 4, 4 - 8**0.5]),
        ({"schedule": "exponential", "start": 16, "end": 1}, [16, 8, 4, 2]),
        ({"schedule": "phases", "values": [8, 4, 1], "at": [0.25, 0.75]}, [8, 4, 4, 1]),
    ],
    ids=lambda value: value["schedule"] if isinstance(value, dict) else "",
)
def test_the_recorded_beta_follows_its_schedule(
    tmp_path: Path,
    tiny_config: Config,
    base: tuple[Path, Path],
    schedule: dict[str, Any],
    betas: list[float],
) -> None:
    beta = ScheduleConfig.model_validate(schedule)
    training = tiny_config.training.model_copy(update={"risk_beta": beta})
    config = tiny_config.model_copy(update={"training": training})
    records = train_into(tmp_path / "run", config, base)
    recorded = [r["values"]["risk_beta"] for r in records if r["kind"] == "metrics"]
    assert recorded == pytest.approx(betas)


def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsgrpo.training.callbacks import SpoolCallback

    train_into(tmp_path / "whole", tiny_config, base)
    on_log = SpoolCallback.on_log

    def die_in_step_3(self: Any, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt
        on_log(self, args, state, *rest, **more)

    monkeypatch.setattr(SpoolCallback, "on_log", die_in_step_3)
    with pytest.raises(KeyboardInterrupt):
        train_into(tmp_path / "cut", tiny_config, base)
    monkeypatch.setattr(SpoolCallback, "on_log", on_log)
    assert list((tmp_path / "cut" / ".work").glob("checkpoint-4"))
    *_, last = read_spool(tmp_path / "cut" / "spool.jsonl")
    assert last["status"] == "KILLED"
    train_into(tmp_path / "cut", tiny_config, base)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_run_killed_after_its_last_checkpoint_trains_no_further_step(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsgrpo.training import train as stage

    train_into(tmp_path / "whole", tiny_config, base)
    save = stage.save_policy

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "save_policy", die)
    with pytest.raises(KeyboardInterrupt):
        train_into(tmp_path / "cut", tiny_config, base)
    monkeypatch.setattr(stage, "save_policy", save)
    records = train_into(tmp_path / "cut", tiny_config, base)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert [record["step"] for record in records if record["kind"] == "metrics"] == [1, 2, 3, 4]


def test_a_bfloat16_checkpoint_is_trained_in_float32(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path]
) -> None:
    import torch
    from safetensors.torch import load_file

    from rsgrpo.policy.load import load_policy, save_policy

    model, tokenizer = load_policy(base[1])
    save_policy(model.to(torch.bfloat16), tokenizer, tmp_path / "half")
    train_into(tmp_path / "run", tiny_config, (base[0], tmp_path / "half"))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_the_trainer_opens_no_socket_and_no_tracking_database(
    tmp_path: Path, tiny_config: Config, base: tuple[Path, Path], tiny_root: Path
) -> None:
    node = trained_run(tiny_config, base_policy(tiny_config)).training
    assert node is not None
    assert find(tiny_root, node) is None, "the run must really train"
    report, node_file = tmp_path / "report.json", tmp_path / "node.json"
    node_file.write_text(node_to_json(node))
    command = [sys.executable, str(TOOLS / "watch_opens.py"), str(report)]
    done = subprocess.run(
        [*command, "-m", "rsgrpo.stages", str(tiny_root), str(node_file)],
        text=True,
        capture_output=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert find(tiny_root, node)
    events = json.loads(report.read_text(encoding="utf-8"))
    # An HTTP library that TRL imports asks the kernel once whether it knows IPv6.
    probe = [["socket.__new__", "(10, 1, 0)"], ["socket.bind", "(('::1', 0),)"]]
    found = [event for event in events if event[0] != "subprocess.Popen" and event not in probe]
    assert found == []


def test_settings_that_the_trainer_refuses_are_one_sentence(tmp_path: Path) -> None:
    config = load_config(None, [*TINY, "training.trl={loss_typ: dapo}"])
    with pytest.raises(UserError, match="loss_typ"):
        trainer_arguments(config.training, tmp_path)
    config = load_config(None, [*TINY, "training.trl={seed: 5}"])
    with pytest.raises(UserError, match=r"training\.trl sets seed"):
        trainer_arguments(config.training, tmp_path)


def test_checkpoints_within_a_step_are_refused_with_the_number_to_set(tmp_path: Path) -> None:
    config = load_config(None, [*TINY, "training.trl={save_steps: 5}"])
    with pytest.raises(UserError, match=r"save_steps to 5 .* set training\.save_every to 3"):
        trainer_arguments(config.training, tmp_path)


def test_a_batch_is_shared_by_the_processes(tmp_path: Path) -> None:
    config = load_config(None, [*TINY, "training.processes=2", "training.save_total_limit=5"])
    arguments = translated(config.training, tmp_path)
    assert arguments["per_device_train_batch_size"] == 8 * 8 // 2 // 2
    assert (arguments["save_steps"], arguments["save_total_limit"]) == (4, 5)


def test_processes_that_would_split_groups_are_refused_with_the_numbers_to_set() -> None:
    with pytest.raises(UserError, match="set prompts_per_step to 9 or processes to 1"):
        load_config(None, [*TINY, "training.processes=3"])
    with pytest.raises(UserError, match="set prompts_per_step to 12 or processes to 2"):
        load_config(None, [*TINY, "training.processes=6"])
    with pytest.raises(UserError, match="= 8 completions of each of 8 processes cannot be split"):
        load_config(None, [*TINY, "training.processes=8", "training.minibatches=3"])


@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code",
        "push_to_hub",
        "model_init_kwargs",
        "log_completions_hub_repo",
        "hub_model_id",
        "vllm_server_base_url",
        "save_only_model",
    ],
)
def test_what_runs_code_uploads_or_resumes_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    config = load_config(None, [*TINY, f"training.trl={{{name}: true}}"])
    with pytest.raises(UserError, match=rf"training\.trl sets {name}"):
        trainer_arguments(config.training, tmp_path)


def test_a_setting_that_only_the_trainer_can_judge_is_one_sentence_too(
    tmp_path: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "training.trl={loss_type: grpo}"])
    with pytest.raises(UserError, match="loss_type is 'grpo': with dynamic sampling"):
        train_into(tmp_path, config, base)


def test_a_policy_without_chat_template_is_refused_where_one_is_asked_for(
    tmp_path: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "prompt.template=chat"])
    with pytest.raises(UserError, match="the policy has no chat template: use plain"):
        train_into(tmp_path, config, base)


def test_a_training_set_smaller_than_a_step_is_refused(
    tmp_path: Path, base: tuple[Path, Path]
) -> None:
    config = load_config(None, [*TINY, "training.prompts_per_step=4000"])
    with pytest.raises(UserError, match="prompts_per_step is 4000 but the training set holds"):
        train_into(tmp_path, config, base)
