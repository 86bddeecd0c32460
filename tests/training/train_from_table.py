"""Train with completions taken from a table, on one process or several; write what happened.

Run as a script: `train_from_table.py OUT_FOLDER ROWS_PER_PROCESS`, which trains once in each mode
of dynamic sampling and writes `MODE.RANK.json`. Sampling cannot be compared
between world sizes, a table keyed by (prompt, slot, step, round) can.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset

from rsgrpo.config import Config, GradingConfig
from rsgrpo.data.countdown import puzzles, solutions
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.stages import end_rank
from rsgrpo.training import RSGRPOConfig, RSGRPOTrainer
from rsgrpo.training.rewards import make_reward

GROUP = 4
STEPS = 10
MODES = ("off", "drop", "refill")


def completion_ids(tokenizer: Any, prompt: str, slot: int, step: int, draw: int) -> list[int]:
    """The table: right with a chance that depends on the prompt, wrong or cut short otherwise."""
    chance = random.Random(prompt).choice((0.0, 0.1, 0.5, 1.0))
    stream = random.Random(f"{prompt}/{slot}/{step}/{draw}")
    answer = stream.choice(solutions(prompt))
    if stream.random() >= chance:
        answer = stream.choice((answer.replace("=", "+", 1), answer[: len(answer) // 2]))
    ids: list[int] = tokenizer(answer)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


class TableTrainer(RSGRPOTrainer):
    """Takes its completions from the table and remembers each step's groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[dict[str, Any]] = []
        self.draws: list[list[Any]] = []
        self._on_draws = lambda draws: self.draws.append(
            [draws.global_step, draws.round, draws.prompts_P, draws.rewards_PN.tolist()]
        )
        self.draw = 0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.draw = 0
        batch = super()._generate_and_score_completions(inputs)
        prompts = [row["prompt"] for row in self._rows]
        groups = list(zip(prompts, batch["advantages"].tolist(), strict=True))
        self.steps.append({"groups": groups, "tokens": float(batch["num_items_in_batch"])})
        return batch

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer, step = self.processing_class, self.state.global_step
        prompts = tokenizer.batch_decode(prompt_ids)
        rows = [
            completion_ids(tokenizer, prompt, row % GROUP, step, self.draw)
            for row, prompt in enumerate(prompts)
        ]
        self.draw += 1
        return rows, None


def train(out: Path, mode: str, rows_per_process: int) -> None:
    config = RSGRPOConfig(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=rows_per_process,
        num_generations=GROUP,
        max_completion_length=10,
        max_steps=STEPS,
        learning_rate=1e-3,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        risk_beta=4.0,
        dynamic_sampling=mode,
        max_refill_rounds=2,
    )
    pool = [f"{' '.join(map(str, p.numbers))} > {p.target} :" for p in puzzles()[::60]]
    tokenizer = build_tokenizer()
    trainer = TableTrainer(
        build_model(Config().policy),
        make_reward(GradingConfig(), [tokenizer.eos_token_id]),
        config,
        Dataset.from_dict(
            {
                "prompt": pool,
                "problem": pool,
                "answer": pool,
                "prompt_index": list(range(len(pool))),
            }
        ),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    file = out / f"{mode}.{trainer.accelerator.process_index}.json"
    written = {"losses": losses, "steps": trainer.steps, "draws": trainer.draws}
    file.write_text(json.dumps(written), encoding="utf-8")


def main() -> int:
    for mode in MODES:
        train(Path(sys.argv[1]), mode, int(sys.argv[2]))
    return 0


if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:
        end_rank(main)
    main()
