"""Presets: five models, three training sets, every pair of them, and the paper's sweep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.plan import plan
from sweeps.metrics import check_metrics
from sweeps.space import Sweep, check_space, grid_points, load_sweep

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted((CONFIGS / "models").glob("*.yaml"))
SETS = sorted((CONFIGS / "data").glob("*.yaml"))
SWEEP = CONFIGS / "beta_sweep_math12k.yaml"
LIES_OVER = {"math12k": [SWEEP]}
SWEEPS = sorted(p for p in CONFIGS.rglob("*.yaml") if "sweep" in yaml.safe_load(p.read_text()))
BENCHMARKS = ["aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500"]


def name(path: Path) -> str:
    return path.stem


def test_the_papers_models_and_training_sets_are_there() -> None:
    assert [load_config(path).policy.checkpoint for path in MODELS] == [
        "meta-llama/Llama-3.1-8B-Instruct",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen2.5-Math-1.5B",
        "Qwen/Qwen2.5-Math-7B",
        "Qwen/Qwen3-4B-Base",
    ]
    assert [path.stem for path in SETS] == ["dapo17k", "deepmath103k", "math12k"]


@pytest.mark.parametrize("model", MODELS, ids=name)
@pytest.mark.parametrize("data", SETS, ids=name)
def test_each_model_goes_with_each_training_set(model: Path, data: Path) -> None:
    config = load_config([model, data])
    assert load_config([data, model]) == config
    assert str(config.data.train) == data.stem
    check_the_papers_values(config)
    found = plan(config)
    assert found.shape.parameters and found.generation.value and found.hours[2].value


def test_the_sweep_is_its_model_and_its_training_set() -> None:
    config = load_config(SWEEP)
    parts = [CONFIGS / "models" / "qwen2.5-math-1.5b.yaml", CONFIGS / "data" / "math12k.yaml"]
    assert load_config([*parts, SWEEP]) == config
    composed = load_config(parts)
    assert composed.model_copy(update={"name": config.name, "study": config.study}) == config
    assert config.study.risk_betas == (0, 2, 4, 8)
    assert config.study.grpo and config.study.headline_beta == 2
    check_the_papers_values(config)


def loaded_sweep(path: Path) -> Sweep:
    return load_sweep([*LIES_OVER.get(path.stem, []), path])


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_every_sweep_loads_and_its_space_can_run(path: Path) -> None:
    sweep = loaded_sweep(path)
    check_space(sweep)
    check_metrics(sweep.sweep, sweep.config)
    assert sweep.config.name not in {load_config(p).name for p in [*MODELS, *SETS, SWEEP]}
    if path.stem != "math12k":
        assert sweep.config.sampling.split == "development"


def test_what_runs_no_sweeps_says_what_does() -> None:
    with pytest.raises(UserError) as fault:
        load_config(CONFIGS / "beta_sweep.yaml")
    assert str(fault.value) == (
        f"config key sweep in {CONFIGS / 'beta_sweep.yaml'} makes the study a sweep: run it with "
        "`rsgrpo sweep run FILE`, or take that branch out"
    )


def test_the_sweeps_show_each_sampler_pruner_and_kind_of_objective() -> None:
    found = [loaded_sweep(path).sweep for path in SWEEPS]
    assert {sweep.sampler.name for sweep in found} == {"grid", "tpe", "nsga2"}
    assert {sweep.pruner.name for sweep in found} == {"none", "asha", "median"}
    assert {len(sweep.objectives) for sweep in found} == {1, 2}
    beta = loaded_sweep(CONFIGS / "beta_sweep.yaml").sweep
    assert (len(grid_points(beta)), beta.seeds) == (12, (100, 101))


def test_the_sweep_on_gpus_leaves_the_newer_benchmarks_unseen() -> None:
    config = loaded_sweep(CONFIGS / "sweeps" / "math12k.yaml").config
    assert config.sampling.benchmarks == ("aime24", "hmmt_feb24")
    assert set(config.data.benchmarks) >= {"aime25", "hmmt_feb25", "cmimc25"}
    assert config.training == load_config(SWEEP).training


def check_the_papers_values(config: Config) -> None:
    assert list(config.data.benchmarks) == BENCHMARKS
    training, sampling, evaluation = config.training, config.sampling, config.evaluation
    assert training.num_generations == 16
    assert training.dynamic_sampling != "off" and training.clip_high > training.clip_low
    assert config.grading.verifier == "math_verify"
    assert (sampling.split, sampling.n, evaluation.headline_k) == ("test", 1024, 32)
    assert evaluation.ks == tuple(1 << power for power in range(11))
    fewest = min(sampling.n_of.get(benchmark, sampling.n) for benchmark in BENCHMARKS)
    assert 4 * evaluation.headline_k <= fewest
    assert training.max_completion_length == sampling.max_new_tokens


@pytest.mark.parametrize("path", [*MODELS, *SETS, SWEEP], ids=name)
def test_every_value_says_whether_it_is_the_papers(path: Path) -> None:
    outside = {"name", "source", "split", "plan"}
    for line in path.read_text(encoding="utf-8").partition("\nplan:")[0].splitlines():
        setting = re.match(r" *(\w+): *[^ #]", line)
        if setting and setting[1] not in outside:
            assert re.search(r"  # (paper|ours)\b", line), line


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_parameters_are_those_of_the_published_shape(path: Path) -> None:
    """Counted as in the published configs: width of the MLP, query width, biases, tied output."""
    mlp, queries, qkv_bias, head_norms, tied = {
        "qwen2.5-math-1.5b": (8960, 1536, True, False, True),
        "qwen2.5-math-7b": (18944, 3584, True, False, False),
        "qwen2.5-7b": (18944, 3584, True, False, False),
        "qwen3-4b-base": (9728, 4096, False, True, True),
        "llama-3.1-8b-instruct": (14336, 4096, False, False, False),
    }[path.stem]
    sizes = load_config(path).plan
    width, keys = sizes.hidden_size, sizes.kv_size
    assert width and keys and sizes.layers and sizes.vocabulary
    layer = 2 * width * queries + 2 * width * keys + 3 * width * mlp + 2 * width
    layer += qkv_bias * (queries + 2 * keys) + head_norms * 2 * 128
    embeddings = (1 if tied else 2) * sizes.vocabulary * width
    assert sizes.parameters == embeddings + sizes.layers * layer + width
