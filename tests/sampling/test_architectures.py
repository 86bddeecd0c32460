"""The back end `local` draws rightly from a model of another architecture, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rsgrpo.errors import UserError
from rsgrpo.sampling.decode import draw_completions, refuse_other_architectures

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 6}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
PROMPTS = ([5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [3])
ENDS = (2, 3, 17)


def random_model(kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **settings)).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, 0.0, 0.25)
    return model


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}),
        ("mistral", WINDOW),
        ("gemma2", WINDOW),
        ("gemma3_text", WINDOW),
        ("qwen3_5_text", LINEAR),
    ],
)
@pytest.mark.parametrize("longest", [1, 24])
@torch.inference_mode()
def test_log_probabilities_are_those_of_each_text_alone(
    kind: str, settings: dict[str, Any], longest: int
) -> None:
    model = random_model(kind, settings)
    refuse_other_architectures(model, PROMPTS[1])
    drawn = draw_completions(
        model,
        PROMPTS,
        8,
        ends=ENDS,
        max_new_tokens=longest,
        warp=None,
        generator=torch.Generator().manual_seed(1),
    )
    assert longest == 1 or len(set(drawn.n_tokens_R.tolist())) > 5  # rows are taken out on the way
    for row, length in enumerate(drawn.n_tokens_R.tolist()):
        prompt, tokens = PROMPTS[row // 8], drawn.tokens_RT[row, :length].tolist()
        logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        alone = float(logprobs[range(length), tokens].sum())
        assert float(drawn.logprob_R[row]) == pytest.approx(alone, abs=1e-3)
        assert not set(tokens[:-1]) & set(ENDS)
        assert bool(drawn.truncated_R[row]) == (tokens[-1] not in ENDS)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("mamba", {"state_size": 4}, "keeps its state in no cache"),
        ("rwkv", {"attention_hidden_size": 32}, "keeps its state in no cache"),
        ("minimax", {"num_local_experts": 2}, "MiniMax uses cache of its own"),
        ("recurrent_gemma", {"attention_window_size": 6, "lru_width": 32}, "next tokens differ by"),
    ],
)
@torch.inference_mode()
def test_an_architecture_that_would_draw_wrongly_is_refused(
    kind: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"{reason}.*serve it, and set sampling.backend to server"):
        refuse_other_architectures(random_model(kind, settings), PROMPTS[1])


def test_an_architecture_that_fails_without_a_word_is_refused_in_a_sentence() -> None:
    class Silent:
        def forward(self, past_key_values: object = None) -> None: ...

        @property
        def device(self) -> str:
            raise NotImplementedError

    with pytest.raises(UserError, match=r"Silent cannot be sampled .*NotImplementedError"):
        refuse_other_architectures(Silent(), PROMPTS[1])
