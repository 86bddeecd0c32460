"""RSGRPOTrainer: TRL's GRPOTrainer with another advantage and DAPO's dynamic sampling.

Three private methods of TRL 1.16 are the seam. `_generate` returns Python lists before anything is
padded: rows are dropped or redrawn there. `_calculate_rewards` returns the gathered rewards, the
same on every rank. `_generate_and_score_completions` returns the batch: its advantages, and the
token count they are averaged over, are replaced. Generation, loss, clipping, logging, checkpoints
and distribution stay TRL's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from trl import GRPOConfig, GRPOTrainer

from rsgrpo.advantages import ESTIMATORS, has_signal
from rsgrpo.schedules import SCHEDULES, Schedule, constant
from rsgrpo.training.dynamic_sampling import (
    Rollouts,
    fresh_prompts,
    join_gathered,
    live_groups,
    plan_refill,
    rows_after_refill,
    rows_to_keep,
    select_gathered,
    used_groups,
)
from rsgrpo.training.refusals import refuse

PROMPT_INDEX = "prompt_index"


class Draws(NamedTuple):
    """The groups of one round of one generation step, over all ranks in order, none filtered.

    `round` is 0 for the first pass and 1, 2, ... for prompts drawn in place of silent groups.
    `prompts_P` holds each group's row in the training set.
    """

    global_step: int
    round: int
    prompts_P: list[int]
    rewards_PN: torch.Tensor


GroupObserver = Callable[[int, torch.Tensor, float], None]
DrawObserver = Callable[[Draws], None]


@dataclass
class RSGRPOConfig(GRPOConfig):  # type: ignore[misc]
    """GRPOConfig with the settings of RS-GRPO; clip-higher and no KL term are the defaults.

    `advantage` names an estimator (`rs_grpo`, `grpo`, `dr_grpo`). `risk_beta` is a number or a
    schedule such as `{"schedule": "linear", "start": 8, "end": 1}`; TRL's own `beta` is the KL
    coefficient. `dynamic_sampling` is `off`, `drop` (groups whose rewards are all equal leave the
    batch) or `refill` (they are redrawn with fresh prompts, `max_refill_rounds` times at most).
    """

    advantage: str = field(default="rs_grpo", metadata={"help": "Estimator of the advantage."})
    risk_beta: float | dict[str, Any] = field(default=2.0, metadata={"help": "Risk parameter."})
    dynamic_sampling: str = field(default="off", metadata={"help": "off, drop or refill."})
    max_refill_rounds: int = field(default=4, metadata={"help": "Rounds of redrawing at most."})
    epsilon_high: float | None = field(default=0.28, metadata={"help": "Upper clip (DAPO)."})


class RSGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO with the risk-sensitive advantage of arXiv 2509.24261.

    Takes the arguments of `trl.GRPOTrainer`, and an `RSGRPOConfig`. Refused at construction, in one
    sentence each: tools, environments, `rollout_func`, image columns, iterable datasets,
    `multi_objective_aggregation` other than `sum_then_normalize`, `scale_rewards` other than its
    default (the estimator scales), and `save_steps` at which a resumed run could not be bitwise
    equal; under dynamic sampling also a local batch that splits groups, a KL term (`beta`) and a
    `loss_type` that is not averaged over the tokens of live groups (`dapo`, `cispo` and `vespo`
    are). Every other argument works as in TRL.

    Args:
        on_groups: Called in each generation step with (step, rewards_PN of the unfiltered first
            pass over all ranks, the step's risk_beta).
        on_draws: Called with the `Draws` of each round, first pass and redrawn prompts alike, where
            the training set has a column `prompt_index` of its rows' numbers.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: RSGRPOConfig | None = None,
        train_dataset: Any = None,
        *more: Any,
        on_groups: GroupObserver | None = None,
        on_draws: DrawObserver | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the arguments, then build TRL's trainer.

        Raises:
            ValueError: An argument is refused; the sentence says which and what to do.
        """
        args = args or RSGRPOConfig("rs-grpo")
        if not isinstance(args, RSGRPOConfig):
            raise ValueError(f"args is a {type(args).__name__}: RSGRPOTrainer needs RSGRPOConfig")
        refuse(args, train_dataset, kwargs)
        self.schedule = _schedule(args.risk_beta)
        super().__init__(model, reward_funcs, args, train_dataset, *more, **kwargs)
        self._on_groups = on_groups
        self._on_draws = on_draws
        self._rows: list[dict[str, Any]] = []
        self._rewards: torch.Tensor | None = None
        self._last_log: tuple[float, float] | None = None

    @property
    def risk_beta(self) -> float:
        """The risk parameter now, by the share of training done."""
        return self.schedule(self.state.global_step / max(self.state.max_steps, 1))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = list(inputs)
        self._rewards = None
        if self._last_log is None:
            self._last_log = (time.perf_counter(), float(self.state.num_input_tokens_seen))
        batch: dict[str, Any] = super()._generate_and_score_completions(self._rows)
        self._set_advantages(batch)
        return batch

    def _set_advantages(self, batch: dict[str, Any]) -> None:
        """Replace TRL's advantages, and under dynamic sampling the tokens they are averaged over.

        Groups that stay silent must not count there, or they would weaken the others.
        """
        size = self.num_generations if self.model.training else self.num_generations_eval
        rewards_PN = self._total_rewards(self._rewards).view(-1, size)
        advantages = ESTIMATORS[self.args.advantage](rewards_PN, self.risk_beta).flatten()
        rows, rank = len(self._rows), self.accelerator.process_index
        local = slice(rank * rows, (rank + 1) * rows)
        batch["advantages"] = advantages[local]
        if self.model.training and self.args.dynamic_sampling != "off":
            live = has_signal(rewards_PN).repeat_interleave(size)[local]
            tokens = (batch["completion_mask"] * live.unsqueeze(1)).sum()
            batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._log_advantages(advantages)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        generated: tuple[Any, ...] = super()._generate(prompts)
        if not self.model.training or self.args.dynamic_sampling == "off":
            return generated
        rollouts = Rollouts(*generated)
        rewards = self._first_rewards(prompts, rollouts)
        if self.args.dynamic_sampling == "drop":
            return tuple(self._drop(prompts, rollouts, rewards))
        return tuple(self._refill(prompts, rollouts, rewards))

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        if self._rewards is not None:
            return self._rewards
        rewards: torch.Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        self._rewards = rewards
        if self.model.training:
            self._observe(rewards)
        return rewards

    def _first_rewards(self, prompts: list[Any], rollouts: Rollouts) -> torch.Tensor:
        return self._calculate_rewards(
            self._rows, prompts, rollouts.completions, rollouts.completion_ids
        )

    def _drop(self, prompts: list[Any], rollouts: Rollouts, rewards: torch.Tensor) -> Rollouts:
        live_WG = self._live(rewards)
        divisor = self.args.steps_per_generation
        rows_WB = rows_to_keep(live_WG, self.num_generations, divisor)
        self._log_metric_now("dynamic_sampling/kept_share", kept_share(live_WG))
        return self._select(prompts, rollouts, rewards, rows_WB)

    def _refill(self, prompts: list[Any], rollouts: Rollouts, rewards: torch.Tensor) -> Rollouts:
        drawn = rounds = 0
        while rounds < self.args.max_refill_rounds and not bool(self._live(rewards).all()):
            refill = plan_refill(self._live(rewards), drawn)
            fresh_rows = self._fresh_rows(refill.prompts, refill.width)
            fresh, fresh_rewards = self._redraw(fresh_rows)
            used = used_groups(refill)
            self._observe_draws(rounds + 1, fresh_rows, self._total_rewards(fresh_rewards), used)
            rows = len(rollouts.completions)
            self._rows.extend(fresh_rows)
            prompts.extend(row["prompt"] for row in fresh_rows)
            rollouts = self._select(
                prompts,
                rollouts.joined(fresh),
                join_gathered(rewards, fresh_rewards, self.accelerator.num_processes),
                rows_after_refill(refill, rows, self.num_generations),
            )
            assert self._rewards is not None
            rewards = self._rewards
            drawn += sum(map(len, refill.slots))
            rounds += 1
        capped = rounds == self.args.max_refill_rounds and not bool(self._live(rewards).all())
        self._log_metric_now("dynamic_sampling/cap_reached", capped)
        self._log_metric_now("dynamic_sampling/rounds", rounds)
        self._log_metric_now("dynamic_sampling/kept_share", kept_share(self._live(rewards)))
        return rollouts

    def _fresh_rows(self, prompts: list[list[int]], width: int) -> list[dict[str, Any]]:
        own = prompts[self.accelerator.process_index]
        first = own[0] if own else 0
        indices = fresh_prompts(
            self.args.seed, self.state.global_step, first, width, len(self.train_dataset)
        )
        return [
            dict(self.train_dataset[index])
            for index in indices
            for _ in range(self.num_generations)
        ]

    def _redraw(self, rows: list[dict[str, Any]]) -> tuple[Rollouts, torch.Tensor]:
        lengths = {name: len(values) for name, values in self._metrics["train"].items()}
        prompts = [row["prompt"] for row in rows]
        fresh = Rollouts(*super()._generate(prompts))
        for name, values in self._metrics["train"].items():
            if name.startswith("completions/"):
                del values[lengths.get(name, 0) :]
        rewards: torch.Tensor = super()._calculate_rewards(
            rows, prompts, fresh.completions, fresh.completion_ids
        )
        return fresh, rewards

    def _select(
        self,
        prompts: list[Any],
        rollouts: Rollouts,
        rewards: torch.Tensor,
        rows_WB: torch.Tensor,
    ) -> Rollouts:
        """Keep rows_WB everywhere; TRL holds `prompts` and `_rows`, so both change in place."""
        own = rows_WB[self.accelerator.process_index].tolist()
        prompts[:] = [prompts[row] for row in own]
        self._rows[:] = [self._rows[row] for row in own]
        for values in self._pending_extra_logs.values():
            values[:] = [values[row] for row in own]
        self._rewards = select_gathered(rewards, rows_WB)
        return rollouts.selected(own)

    def _live(self, rewards: torch.Tensor) -> torch.Tensor:
        ranks = self.accelerator.num_processes
        return live_groups(self._total_rewards(rewards), ranks, self.num_generations)

    def _total_rewards(self, rewards: torch.Tensor | None) -> torch.Tensor:
        """Return the weighted sum over reward functions, NaN where none could score the row."""
        assert rewards is not None
        weights: torch.Tensor = self.reward_weights.to(rewards.device)
        total = (rewards * weights).nansum(dim=1)
        return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)

    def _observe(self, rewards: torch.Tensor) -> None:
        """Log the unfiltered first pass: means over a filtered batch are selection-biased."""
        rewards_PN = self._total_rewards(rewards).view(-1, self.num_generations)
        for name, value in first_pass_metrics(rewards_PN).items():
            self._log_metric_now(f"first_pass/{name}", value)
        self._log_metric_now("risk_beta", self.risk_beta)
        if self._on_groups and self.is_world_process_zero():
            self._on_groups(self.state.global_step, rewards_PN, self.risk_beta)
        self._observe_draws(0, self._rows, rewards_PN)

    def _observe_draws(
        self,
        round_: int,
        rows: list[dict[str, Any]],
        rewards: torch.Tensor,
        used: list[int] | None = None,
    ) -> None:
        """Tell of every prompt drawn; every rank gathers, the first one tells."""
        if not rows or PROMPT_INDEX not in rows[0]:
            return
        own = torch.tensor([row[PROMPT_INDEX] for row in rows], device=rewards.device)
        prompts_P = self.accelerator.gather(own)[:: self.num_generations].tolist()
        if self._on_draws and self.is_world_process_zero():
            rewards_PN = rewards.view(-1, self.num_generations)
            chosen = list(range(len(prompts_P))) if used is None else used
            prompts = [prompts_P[group] for group in chosen]
            draws = Draws(self.state.global_step, round_, prompts, rewards_PN[chosen])
            self._on_draws(draws)

    def _log_advantages(self, advantages: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["advantage/mean_abs"].append(advantages.abs().mean().item())
        logged = self._logs["advantages"]
        earlier = list(logged)[: max(len(logged) - len(advantages), 0)]
        logged.clear()
        logged.extend([*earlier, *advantages.tolist()])

    def _log_metric_now(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with tokens per second."""
        if self.model.training and self._last_log:
            now, tokens = time.perf_counter(), float(self.state.num_input_tokens_seen)
            before, tokens_before = self._last_log
            logs["tokens_per_second"] = (tokens - tokens_before) / max(now - before, 1e-9)
            self._last_log = (now, tokens)
        super().log(logs, start_time)


def kept_share(live_WG: torch.Tensor) -> float:
    """Return the share of groups that carry a gradient."""
    return float(live_WG.float().mean())


def first_pass_metrics(rewards_PN: torch.Tensor) -> dict[str, float]:
    """Return reward, pass@k (k a power of two up to N) and the shares of silent groups.

    A sample passes when its reward is above 0; a NaN reward counts as a failure.
    """
    group_size = rewards_PN.shape[1]
    correct_P = (rewards_PN > 0).sum(1)
    metrics = {
        "reward": rewards_PN.nanmean(),
        "frac_all_fail": (correct_P == 0).float().mean(),
        "frac_all_pass": (correct_P == group_size).float().mean(),
    }
    k = 1
    while k <= group_size:
        metrics[f"pass_at_{k}"] = (
            1 - _miss_table(group_size, k, rewards_PN.device)[correct_P].mean()
        )
        k *= 2
    names, values = zip(*metrics.items(), strict=True)
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


def _miss_table(n: int, k: int, device: torch.device) -> torch.Tensor:
    """Return C(n-c, k) / C(n, k) for c = 0..n."""
    factors = 1 - k / torch.arange(n, 0, -1, dtype=torch.float64, device=device)
    table = torch.cat([torch.ones(1, dtype=torch.float64, device=device), factors.clamp(min=0)])
    return table.cumprod(0).float()


def _schedule(risk_beta: float | dict[str, Any]) -> Schedule:
    if isinstance(risk_beta, dict):
        if risk_beta.get("schedule") not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ValueError(f"risk_beta is {risk_beta}: its schedule must be one of {known}")
        options = {key: value for key, value in risk_beta.items() if key != "schedule"}
        try:
            return SCHEDULES[risk_beta["schedule"]](**options)
        except TypeError as fault:
            raise ValueError(f"risk_beta is {risk_beta}: {fault}") from fault
    if not math.isfinite(risk_beta):
        raise ValueError(f"risk_beta is {risk_beta}: it must be a finite number")
    return constant(float(risk_beta))
