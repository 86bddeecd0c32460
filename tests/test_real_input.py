"""Real problems, a tiny Qwen-style checkpoint made on the spot, Math-Verify, all six benchmarks.

Its accuracy is what it is: an untrained policy solves nothing. What is tested is the path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsgrpo.data.jsonl import read_problems
from rsgrpo.policy.load import save_policy
from rsgrpo.tracking.spool import read_spool

BENCHMARKS = ("aime24", "aime25", "hmmt_feb24", "hmmt_feb25", "cmimc25", "math500")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_checkpoint(folder: Path, texts: list[str]) -> None:
    """Write a Qwen2-style policy with a byte-level tokenizer trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    save_policy(Qwen2ForCausalLM(config), tokenizer, folder)


@pytest.fixture(scope="module")
def study(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file that names real problems and the checkpoint."""
    folder = tmp_path_factory.mktemp("real")
    files = shared_data / "benchmarks"
    problems = read_problems(files / "math12k.jsonl", limit=200)
    make_checkpoint(folder / "qwen", [problem.problem for problem in problems])
    tree = {
        "name": "real",
        "data": {
            "source": "jsonl",
            "train": str(files / "math12k.jsonl"),
            "benchmarks": {name: str(files / f"{name}.jsonl") for name in BENCHMARKS},
            "limit": 12,
        },
        "policy": {"checkpoint": str(folder / "qwen")},
        "prompt": {"template": "chat", "suffix": "\nPut your final answer within \\boxed{}."},
        "training": {
            "steps": 3,
            "prompts_per_step": 4,
            "num_generations": 4,
            "minibatches": 1,
            "max_completion_length": 24,
            "dynamic_sampling": "refill",
            "max_refill_rounds": 1,
            "save_every": 3,
        },
        "sampling": {"n": 4, "batch_size": 48, "max_new_tokens": 24},
        "grading": {"verifier": "math_verify", "timeout": 2},
        "evaluation": {"ks": [1, 2, 4], "headline_k": 4, "resamples": 200},
    }
    (folder / "real.yaml").write_text(yaml.safe_dump(tree))
    return folder / "real.yaml"


def rsgrpo(*arguments: str) -> str:
    command = [sys.executable, "-c", "from rsgrpo.cli import main; main()", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_three_steps_on_math12k_with_math_verify(study: Path) -> None:
    out = study.parent / "runs"
    folder = Path(rsgrpo("train", "-c", str(study), "--out", str(out)).strip().splitlines()[-1])
    records = list(read_spool(folder / "spool.jsonl"))
    metrics = [record["values"] for record in records if record["kind"] == "metrics"]
    assert len(metrics) == 3
    for values in metrics:
        assert values["refill_rounds"] == 1 or values["kept_share"] == 1
        assert values["frac_all_fail"] + values["frac_all_pass"] <= 1
        assert values["completion_length"] <= 24
    assert (folder / "model.safetensors").exists() and (folder / "chat_template.jinja").exists()


def test_evaluation_on_all_six_real_benchmarks(study: Path) -> None:
    rows = json.loads(
        rsgrpo("evaluate", "-c", str(study), "--out", str(study.parent / "runs"), "--json")
    )
    found = {(row["benchmark"], row["k"]): row for row in rows if row["metric"] == "pass@k"}
    assert {name for name, _ in found} == {*BENCHMARKS, "mean"}
    for row in rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["n_samples"] == 4
        assert row["n_prompts"] == (72 if row["benchmark"] == "mean" else 12)
