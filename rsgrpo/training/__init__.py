"""RS-GRPO training on TRL. `from rsgrpo.training import RSGRPOConfig, RSGRPOTrainer`."""

from __future__ import annotations

from typing import Any

__all__ = ["RSGRPOConfig", "RSGRPOTrainer"]


def __getattr__(name: str) -> Any:
    """Import TRL only when the trainer is asked for: it costs seconds."""
    if name in __all__:
        from rsgrpo.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
