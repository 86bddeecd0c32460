"""How a problem becomes a prompt: the templates, used by training and by sampling alike.

A text template is tokenised as any text is, with the start token that the tokenizer may add; `chat`
is the checkpoint's own template, which brings its start token along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsgrpo.config import PromptConfig
from rsgrpo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = {
    "plain": "{problem}",
    # Prompt type `qwen25-math-cot` of QwenLM/Qwen2.5-Math, evaluation/utils.py.
    "qwen_math": (
        "<|im_start|>system\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n{problem}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
}

Messages = list[dict[str, str]]


def training_prompt(problem: str, prompt: PromptConfig) -> str | Messages:
    """Return a problem's prompt as TRL wants it: text, or messages that it templates itself."""
    text = problem + prompt.suffix
    if prompt.template == "chat":
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        return [*system, {"role": "user", "content": text}]
    return TEXTS[prompt.template].replace("{problem}", text)


def render_prompts(
    problems: list[str], tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig
) -> list[str]:
    """Return the text that the policy reads for each problem, but for a start token of a text.

    Args:
        problems: The problems' texts.
        tokenizer: The policy's tokenizer, whose chat template is used where asked for.
        prompt: Template, system message and suffix.

    Raises:
        UserError: `chat` is asked of a tokenizer without a chat template.
    """
    prompts = [training_prompt(problem, prompt) for problem in problems]
    if prompt.template != "chat":
        return [str(text) for text in prompts]
    refuse_missing_template(tokenizer, prompt.template)
    options = {"tokenize": False, "add_generation_prompt": True}
    return [str(tokenizer.apply_chat_template(messages, **options)) for messages in prompts]


def adds_start_token(prompt: PromptConfig) -> bool:
    """Return whether the tokenizer is to put its special tokens around a rendered prompt."""
    return prompt.template != "chat"


def refuse_missing_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Raise a UserError where `chat` is asked of a tokenizer without a chat template."""
    if template == "chat" and not tokenizer.chat_template:
        raise UserError("prompt.template is chat, but the policy has no chat template: use plain")
