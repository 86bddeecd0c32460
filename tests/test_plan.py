"""The dry run: exact figures from named formulas, and no figure where a size is unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rsgrpo.config import Config, PolicyConfig, load_config
from rsgrpo.errors import UserError
from rsgrpo.estimates import GIB, batch_of, total
from rsgrpo.plan import Draws, plan, plan_lines, planned_draws
from rsgrpo.policy.shape import checkpoint_shape, embedded_shape

SWEEP = Path(__file__).parents[1] / "configs" / "beta_sweep_math12k.yaml"


@pytest.fixture(scope="module")
def sweep() -> Config:
    return load_config(SWEEP)


@pytest.mark.parametrize(
    "policy", [PolicyConfig(), PolicyConfig(hidden_size=48, layers=3, heads=2, mlp_size=80)]
)
def test_the_embedded_policys_formula_counts_what_is_built(policy: PolicyConfig) -> None:
    from rsgrpo.policy.tiny import build_model

    model = build_model(policy)
    assert embedded_shape(policy).parameters == sum(p.numel() for p in model.parameters())
    assert embedded_shape(PolicyConfig()).parameters == 96_576


def test_a_checkpoint_is_counted_from_its_headers(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    shape = checkpoint_shape(tmp_path)
    assert shape[:-1] == (sum(p.numel() for p in model.parameters()), 3, 16, 16, 50)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_checkpoint_without_a_config_is_one_sentence(tmp_path: Path, text: str | None) -> None:
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="name a whole one") as fault:
        checkpoint_shape(tmp_path)
    assert "\n" not in str(fault.value)


def test_the_sweep_is_resolved(sweep: Config) -> None:
    found = plan(sweep)
    betas = [f"rs_grpo-beta{beta}-seed0" for beta in (0, 2, 4, 8)]
    assert found.runs == ("base", "grpo-seed0", *betas)
    assert found.stages == {
        "prepare": 1,
        "train": 5,
        "sample": 6,
        "grade": 6,
        "score": 6,
        "analyse": 1,
    }
    batch = found.batch
    assert (batch.rows, batch.micro_batch, batch.updates, batch.length) == (512, 4, 2, 3328)
    assert found.draws[0] == Draws("aime24", 30, 1024)
    assert found.draws[-1] == Draws("math500", 500, 128)


def test_memory_follows_its_formulas(sweep: Config) -> None:
    found = plan(sweep)
    parameters = 1_543_714_304
    assert total(found.state) == pytest.approx(18 * parameters / GIB)
    inputs, layer, logits = (term.value for term in found.update)
    assert inputs == pytest.approx(2 * 28 * 4 * 3328 * 1536 / GIB)
    assert layer == pytest.approx(34 * 4 * 3328 * 1536 / GIB)
    assert logits == pytest.approx(8 * 4 * 3073 * 151_936 / GIB)
    assert found.generation.value == pytest.approx(4 * 512 * 3328 * 28 * 256 / GIB)
    assert total(found.sampling) == pytest.approx(
        (2 * parameters + 4 * 512 * 3328 * 28 * 256) / GIB
    )


def test_hours_follow_their_formulas(sweep: Config) -> None:
    generation, updates, evaluation = plan(sweep).hours
    work = 1_543_714_304 * 5 * 200 * 512 * 3328 / 989e12 / 3600
    assert generation.value == pytest.approx(2 * work / 0.05)
    assert updates.value == pytest.approx(10 * work / 0.3)
    drawn = 6 * (160 * 1024 + 500 * 128) * (256 + 3072)
    assert evaluation.value == pytest.approx(2 * 1_543_714_304 * drawn / 989e12 / 0.05 / 3600)


def test_without_activation_checkpointing_updates_cost_memory_and_save_time(sweep: Config) -> None:
    overrides = ["training.trl={gradient_checkpointing: false}"]
    found = plan(load_config(SWEEP, overrides))
    assert found.update[0].value == pytest.approx(34 * 28 * 4 * 3328 * 1536 / GIB)
    assert found.hours[1].value == pytest.approx(plan(sweep).hours[1].value * 8 / 10)  # type: ignore[operator]


def test_processes_divide_a_step(sweep: Config) -> None:
    overrides = ["training.processes=8", "training.gradient_accumulation=8"]
    config = load_config(SWEEP, overrides)
    assert batch_of(config).micro_batch == 4
    whole, part = plan(sweep).generation.value, plan(config).generation.value
    assert whole is not None and part == pytest.approx(whole / 8)


def test_what_is_unknown_is_said_to_be(sweep: Config) -> None:
    config = load_config(SWEEP, ["plan={}"])
    text = "\n".join(plan_lines(config))
    assert "Qwen/Qwen2.5-Math-1.5B: parameters unknown: set plan.parameters" in text
    assert "unknown: set plan.layers, plan.kv_size" in text
    assert "unknown: set plan.vocabulary" in text
    assert "needs an unknown share of 80 GiB" in text
    assert total(plan(config).hours) is None


def test_a_step_that_does_not_fit_is_said_to_not_fit() -> None:
    lines = plan_lines(load_config(SWEEP, ["plan.device_gib=40"]))
    [line] = [line for line in lines if "a training device" in line]
    assert line == (
        "memory      a training device needs 71.38 of 40 GiB, DOES NOT FIT, "
        "update and generation in turns:"
    )
    assert "DOES NOT FIT" not in "\n".join(plan_lines(load_config(SWEEP)))


def test_the_study_of_the_embedded_policy_is_resolved(tiny_config: Config) -> None:
    found = plan(tiny_config)
    assert found.runs == ("base", "grpo-seed0", "rs_grpo-beta4-seed0")
    assert found.stages["pretrain"] == 1
    assert found.draws == tuple(Draws(f"T{tier}", 2, 16) for tier in range(1, 7))


def test_problems_of_ones_own_are_counted_where_their_file_is(tmp_path: Path) -> None:
    rows = [json.dumps({"id": i, "problem": "?", "answer": "1"}) for i in range(5)]
    (tmp_path / "own.jsonl").write_text("\n".join(rows) + "\n")
    files = {"own": str(tmp_path / "own.jsonl"), "gone": str(tmp_path / "gone.jsonl")}
    config = load_config(
        SWEEP, ["sampling.n_of={}", f"data.benchmarks={json.dumps(files)}", "data.limit=3"]
    )
    found = plan(config)
    assert found.draws == (Draws("own", 3, 1024), Draws("gone", None, 1024))
    assert found.hours[2].value is None
    assert any("unknown completions" in line for line in plan_lines(config))


def test_chosen_benchmarks_and_their_first_problems_are_what_is_planned() -> None:
    config = load_config(None, ["sampling.benchmarks=[T2]", "sampling.limit=3", "sampling.n=8"])
    assert planned_draws(config) == (Draws("T2", 3, 8),)


def test_problems_without_a_policy_are_refused() -> None:
    with pytest.raises(UserError, match=r"name it in policy\.checkpoint"):
        plan(load_config(SWEEP, ["policy.checkpoint=null"]))


def test_the_plan_is_printed_without_torch_and_without_files(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from rsgrpo.cli import main\n"
        f"sys.argv = ['rsgrpo', 'train', '-c', {str(SWEEP)!r}, '--dry-run']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("study       beta-sweep-math12k: 1 prepare, 5 train")
    assert lines[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


def test_no_stage_reads_what_the_plan_assumes() -> None:
    from rsgrpo.stage_table import STAGES

    assert all("plan" not in stage.branches for stage in STAGES.values())
