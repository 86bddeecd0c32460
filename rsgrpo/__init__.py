"""rsgrpo: train language models with risk-sensitive GRPO and measure pass@1 against pass@k."""

__version__ = "0.1.0"
