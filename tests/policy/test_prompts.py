"""Prompt templates: their exact text, and the same tokens in training and in evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from rsgrpo.config import Config, PromptConfig, load_config
from rsgrpo.errors import UserError
from rsgrpo.policy.prompts import adds_start_token, render_prompts
from rsgrpo.training.train import training_set

PROBLEM = "What is {1} + 1?"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
CHAT = (
    "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURN = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"

EXPECTED = [
    (PromptConfig(), PROBLEM),
    (PromptConfig(suffix="\nAnswer:"), f"{PROBLEM}\nAnswer:"),
    (PromptConfig(template="qwen_math"), f"<|im_start|>system\n{BOXED}<|im_end|>\n{TURN}"),
    (PromptConfig(template="chat"), f"<s>{TURN}"),
    (
        PromptConfig(template="chat", system=BOXED),
        f"<s><|im_start|>system\n{BOXED}<|im_end|>\n{TURN}",
    ),
    (
        PromptConfig(template="chat", suffix=" Box it."),
        f"<s><|im_start|>user\n{PROBLEM} Box it.<|im_end|>\n<|im_start|>assistant\n",
    ),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that starts every text with <s>, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<s>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE({token: i for i, token in enumerate([*special, *letters])}, merges=[])
    )
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize(("prompt", "text"), EXPECTED)
def test_each_template_renders_exactly(tokenizer: Any, prompt: PromptConfig, text: str) -> None:
    assert render_prompts([PROBLEM], tokenizer, prompt) == [text]


@pytest.mark.parametrize(("prompt", "text"), EXPECTED)
def test_training_and_evaluation_read_the_same_tokens_with_one_start(
    tmp_path: Path, tokenizer: Any, prompt: PromptConfig, text: str
) -> None:
    from trl import GRPOTrainer

    row = {"id": "a", "problem": PROBLEM, "answer": "2"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    config = Config(prompt=prompt)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"prompts_per_step": 1})}
    )
    prompts = training_set(config, tmp_path, tokenizer)["prompt"]
    trainer = type("Trainer", (), {"_is_vlm": False, "environment_factories": None, "tools": []})()
    trainer.chat_template, trainer.chat_template_kwargs = None, {}
    trainer.processing_class = tokenizer
    [trained] = GRPOTrainer._tokenize_prompts(trainer, list(prompts))[0]
    [evaluated] = tokenizer(
        render_prompts([PROBLEM], tokenizer, prompt), add_special_tokens=adds_start_token(prompt)
    )["input_ids"]
    assert list(trained) == evaluated
    assert evaluated.count(tokenizer.bos_token_id) == 1 and evaluated[0] == tokenizer.bos_token_id
    assert tokenizer.decode(evaluated).removeprefix("<s>") == text.removeprefix("<s>")


def test_a_tokenizer_without_chat_template_is_refused(tokenizer: Any) -> None:
    from rsgrpo.policy.tiny import build_tokenizer

    with pytest.raises(UserError, match="no chat template: use plain"):
        render_prompts([PROBLEM], build_tokenizer(), PromptConfig(template="chat"))


@pytest.mark.parametrize("template", ["plain", "qwen_math"])
def test_a_system_message_is_for_the_chat_template_alone(template: str) -> None:
    with pytest.raises(UserError, match=f"for the template chat, not {template}: remove one"):
        load_config(None, [f"prompt.template={template}", "prompt.system=Think."])
