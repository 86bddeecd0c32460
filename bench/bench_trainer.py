"""A training step of RSGRPOTrainer against TRL's GRPOTrainer on the embedded policy.

All trainers live in one process and take turns, one generation step (one batch of completions and
its updates) each, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import os
import tempfile
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

os.environ["DISABLE_MLFLOW_INTEGRATION"] = "TRUE"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from transformers import TrainerCallback

from rsgrpo.config import Config, load_config
from rsgrpo.policy.load import load_policy
from rsgrpo.stages import run as run_stage
from rsgrpo.study import base_policy, prepared
from rsgrpo.tracking.spool import Spool
from rsgrpo.training.callbacks import AdvantageShapeRecorder, SpoolCallback
from rsgrpo.training.rewards import make_reward
from rsgrpo.training.train import trainer_arguments, training_set
from rsgrpo.training.trainer import RSGRPOTrainer

ROOT = Path("runs/bench")
STEPS, WARM_UP = 33, 3
TARGETS = {"off": 1.03, "drop": 0.85, "own": 0.03}


def run() -> list[str]:
    """Return the measured ratios and shares."""
    config = load_config(None, [f"training.steps={STEPS}", "training.save_every=1000"])
    base = run_stage(ROOT, base_policy(config))  # type: ignore[arg-type]
    seconds, parts = _race(config, base)
    trl, off, drop = (median(seconds[name][WARM_UP:]) for name in ("trl", "off", "drop"))
    own = {name: mean(parts[name, "own"][WARM_UP:]) for name in ("off", "drop")}
    reward = {name: mean(parts[name, "reward"][WARM_UP:]) for name in ("off", "drop")}
    model = {name: mean(parts[name, "model"][WARM_UP:]) for name in ("off", "drop")}
    step = {name: mean(seconds[name][WARM_UP:]) for name in ("off", "drop")}
    setting = f"768 completions of 10 tokens, 2 updates, {STEPS - WARM_UP} interleaved steps"
    lines = [
        f"trainer: RSGRPOTrainer (off) takes {_ratio(seconds, 'off'):.3f}x GRPOTrainer (target <= "
        f"{TARGETS['off']}x): {off * 1e3:.0f} ms against {trl * 1e3:.0f} ms; {setting}",
        f"trainer: RSGRPOTrainer (drop) takes {_ratio(seconds, 'drop'):.3f}x GRPOTrainer (target "
        f"<= {TARGETS['drop']}x): {drop * 1e3:.0f} ms; {setting}",
    ]
    for name in ("off", "drop"):
        total = (own[name] + reward[name]) / step[name]
        rest = 1 - (own[name] + reward[name] + model[name]) / step[name]
        lines.append(
            f"trainer: rsgrpo's own code is {total:.1%} of a step in mode {name} (target <= "
            f"{TARGETS['own']:.0%}): {own[name] * 1e3:.1f} ms advantage, dynamic sampling, metrics "
            f"and spool, {reward[name] * 1e3:.1f} ms verifier; model {model[name] / step[name]:.0%}"
            f" (generate, forward, backward, optimizer), TRL and transformers {rest:.0%}"
        )
    return lines


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    """Return the median of the step-by-step ratios to GRPOTrainer."""
    pairs = zip(seconds[name][WARM_UP:], seconds["trl"][WARM_UP:], strict=True)
    return median(ours / theirs for ours, theirs in pairs)


def _race(
    config: Config, base: Path
) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]]]:
    turns = Turns(["trl", "off", "drop"])
    with tempfile.TemporaryDirectory() as folder:
        threads = [
            threading.Thread(target=_train_or_end, args=(turns, name, config, base, Path(folder)))
            for name in turns.names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return turns.seconds, turns.parts


class Turns(TrainerCallback):  # type: ignore[misc]
    """Lets trainers in threads go on one after the other and keeps the time of each turn."""

    def __init__(self, names: list[str]) -> None:
        """Give the first turn to the first name."""
        self.names = names
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.parts: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._gates = {name: threading.Semaphore(int(name == names[0])) for name in names}

    def take(self, name: str) -> None:
        """Wait for one's turn."""
        self._gates[name].acquire()

    def give(self, name: str) -> None:
        """Hand the turn to the next."""
        following = self.names[(self.names.index(name) + 1) % len(self.names)]
        self._gates[following].release()


class Turn(TrainerCallback):  # type: ignore[misc]
    """One trainer's side of `Turns`: a turn is one generation step."""

    def __init__(self, turns: Turns, name: str, updates: int) -> None:
        """Hold the parts of the step that runs in `spent`."""
        self.turns, self.name, self.updates = turns, name, updates
        self.spent: dict[str, float] = defaultdict(float)
        self._began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self.turns.take(self.name)
        self._began = perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the turn after the last update of a generation step."""
        if state.global_step % self.updates or len(self.turns.seconds[self.name]) == STEPS:
            return
        self.turns.seconds[self.name].append(perf_counter() - self._began)
        for part in ("own", "reward", "model"):
            self.turns.parts[self.name, part].append(self.spent.pop(part, 0.0))
        self.turns.give(self.name)
        if state.global_step < state.max_steps:
            self.turns.take(self.name)
        self._began = perf_counter()

    @contextmanager
    def counted(self, part: str) -> Iterator[None]:
        """Count the time of the body, less what it counts elsewhere."""
        began, before = perf_counter(), sum(self.spent.values())
        yield
        inner = sum(self.spent.values()) - before
        self.spent[part] += perf_counter() - began - inner

    def count(self, owner: Any, method: str, part: str) -> None:
        """Count every call of a method."""
        function: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counted(part):
                return function(*args, **kwargs)

        setattr(owner, method, counted)


def _train_or_end(turns: Turns, name: str, config: Config, base: Path, folder: Path) -> None:
    try:
        _train(turns, name, config, base, folder / name)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the other trainers wait for a turn that will not come


def _train(turns: Turns, name: str, config: Config, base: Path, out: Path) -> None:
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    settings = config.training.model_copy(
        update={"dynamic_sampling": "drop" if name == "drop" else "off"}
    )
    model, tokenizer = load_policy(base)
    turn = Turn(turns, name, settings.minibatches)
    arguments = trainer_arguments(settings, out)
    dataset = training_set(config, run_stage(ROOT, prepared(config)), tokenizer)
    reward = make_reward(config.grading, [tokenizer.eos_token_id])

    def counted_reward(**kwargs: Any) -> list[float]:
        with turn.counted("reward"):
            return reward(**kwargs)

    common = {"train_dataset": dataset, "processing_class": tokenizer}
    if name == "trl":
        own = ("advantage", "risk_beta", "dynamic_sampling", "max_refill_rounds")
        plain = {key: value for key, value in arguments.__dict__.items() if key not in own}
        known = GRPOConfig.__dataclass_fields__
        theirs = GRPOConfig(
            **{key: value for key, value in plain.items() if key in known and known[key].init}
            | {"generation_batch_size": None}
        )
        trainer = GRPOTrainer(model, counted_reward, theirs, **common, callbacks=[turn])
    else:
        spool = Spool(out / "spool.jsonl", name)
        recorder = AdvantageShapeRecorder(spool, settings.histogram_every, settings.minibatches)
        trainer = RSGRPOTrainer(
            model, counted_reward, arguments, **common, on_groups=recorder,
            callbacks=[_Counted(turn, SpoolCallback(spool, settings.minibatches)), turn],
        )  # fmt: skip
        for method in ("_drop", "_observe", "_set_advantages"):
            turn.count(trainer, method, "own")
    trainer.remove_callback(PrinterCallback)
    turn.count(trainer, "_generate_single_turn", "model")
    turn.count(trainer, "_get_per_token_logps_and_entropies", "model")
    turn.count(trainer.accelerator, "backward", "model")
    trainer.create_optimizer()
    turn.count(trainer.optimizer, "step", "model")
    trainer.train()


class _Counted(TrainerCallback):  # type: ignore[misc]
    """Counts what a callback costs as our own code."""

    def __init__(self, turn: Turn, inner: SpoolCallback) -> None:
        self.turn, self.inner = turn, inner

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        with self.turn.counted("own"):
            self.inner.on_log(*args, **kwargs)
