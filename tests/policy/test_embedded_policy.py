"""The embedded policy: tokenizer, size, pre-training that resumes bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rsgrpo.config import Config, PretrainConfig
from rsgrpo.data.countdown import grade_chain
from rsgrpo.data.prepare import prepare
from rsgrpo.errors import UserError
from rsgrpo.policy import tiny
from rsgrpo.policy.load import load_policy, save_policy


def test_tokens_are_one_for_each_number_and_sign(tmp_path: Path) -> None:
    model = tiny.build_model(Config().policy)
    save_policy(model, tiny.build_tokenizer(), tmp_path)
    loaded, tokenizer = load_policy(tmp_path)
    assert sum(p.numel() for p in model.parameters()) == 96_576
    assert tokenizer("7 2 6 > 26 :")["input_ids"] == [7, 2, 6, 106, 26, 105]
    assert (
        tokenizer.decode(tokenizer("7 + 6 = 13 * 2 = 26 $")["input_ids"]) == "7 + 6 = 13 * 2 = 26 $"
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert not list(tmp_path.glob("*.bin"))


def test_corpus_rows_are_prompts_with_right_answers(tmp_path: Path) -> None:
    prepare(Config(), out=tmp_path)
    [batch] = tiny.corpus_batches(tmp_path / "corpus.jsonl", PretrainConfig(steps=1), seed=3)
    assert batch.shape == (64, 16)
    for ids in batch.tolist():
        words = [tiny.VOCABULARY[i] for i in ids]
        prompt, answer = " ".join(words[:6]), " ".join(words[6:15])
        assert grade_chain(prompt, answer, words[15] != "$").correct


def test_a_killed_pretraining_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Config
) -> None:
    prepare(tiny_config, out=tmp_path / "data")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    tiny.pretrain(tiny_config, data=tmp_path / "data", out=tmp_path / "whole")
    update, calls = tiny._update, []

    def die_at_step_47(*arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 47:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(tiny, "_update", die_at_step_47)
    with pytest.raises(KeyboardInterrupt):
        tiny.pretrain(tiny_config, data=tmp_path / "data", out=tmp_path / "killed")
    monkeypatch.setattr(tiny, "_update", update)
    tiny.pretrain(tiny_config, data=tmp_path / "data", out=tmp_path / "killed")
    for file in ("model.safetensors", "pretrain.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_policy_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as fault:
        load_policy(tmp_path / "nothing")
    assert "\n" not in str(fault.value)
    save_policy(tiny.build_model(Config().policy), tiny.build_tokenizer(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(tmp_path)
