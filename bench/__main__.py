"""Run every benchmark and print its lines."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main(chosen: list[str]) -> None:
    """Run the benchmarks named, or all of them."""
    for module in pkgutil.iter_modules(bench.__path__):
        name = module.name.removeprefix("bench_")
        if module.name.startswith("bench_") and (not chosen or name in chosen):
            for line in importlib.import_module(f"bench.{module.name}").run():
                print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
