"""A reward of one's own: found by the name that an installed distribution registers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import Config, load_config
from rsgrpo.errors import UserError
from rsgrpo.nodes import Node
from rsgrpo.stages import run
from rsgrpo.study import base_policy, trained_run
from rsgrpo.tracking.spool import read_spool
from rsgrpo.training.named_rewards import named_reward, reward_version
from tests.conftest import TINY

MODULE = '''
def brief(completions, problem, answer, **columns):
    """Reward short completions."""
    assert all(isinstance(text, str) for text in (*completions, *problem, *answer)), columns
    assert not columns, columns
    return [1.0 if len(text) < 6 else 0.0 for text in completions]


def few(completions, **columns):
    return [1.0]


def endless(completions, **columns):
    return [float("nan")] * len(completions)


def nothing(completions, **columns):
    return None
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small distribution on the path; returns its module's file."""
    site = tmp_path / "site"
    metadata = site / "my_rewards-1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.2\n")
    names = ("brief", "few", "endless", "nothing")
    lines = [f"{name} = my_rewards.short:{name}" for name in names]
    (metadata / "entry_points.txt").write_text("\n".join(["[rsgrpo.rewards]", *lines, ""]))
    source = site / "my_rewards" / "short.py"
    source.parent.mkdir()
    (source.parent / "__init__.py").write_text("raise ImportError('planning imports nothing')")
    source.write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    for name in ("my_rewards", "my_rewards.short"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return source


@pytest.fixture
def importable(installed: Path) -> Path:
    (installed.parent / "__init__.py").write_text("")
    return installed


def training(config: Config) -> Node:
    node = trained_run(config, base_policy(config)).training
    assert node is not None
    return node


def messages(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def call(name: str, completions: list[Any]) -> list[float]:
    columns = [""] * len(completions)
    return named_reward(name, None)(
        prompts=columns,
        completions=completions,
        completion_ids=[[1]] * len(completions),
        problem=columns,
        answer=columns,
        trainer_state=None,
        log_metric=None,
        log_extra=None,
    )


def test_the_function_gets_texts_and_the_columns_of_the_data(importable: Path) -> None:
    assert call("brief", ["short", "not so short"]) == [1.0, 0.0]
    assert call("brief", messages("short", "not so short")) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("few", "reward 'few' returned 1 values for 2: it must return one finite number"),
        ("endless", "reward 'endless' returned nan: it must return"),
        ("nothing", "reward 'nothing' returned a NoneType: it must return"),
    ],
)
def test_what_is_no_number_for_each_completion_is_one_sentence(
    importable: Path, name: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        call(name, ["a", "b"])


def test_an_unknown_name_is_refused_when_the_study_is_planned(installed: Path) -> None:
    config = load_config(None, [*TINY, "training.reward=breif"])
    with pytest.raises(UserError, match="unknown reward 'breif': did you mean brief"):
        training(config)


def test_a_training_depends_on_the_distribution_and_the_source_of_its_reward(
    installed: Path,
) -> None:
    config = load_config(None, [*TINY, "training.reward=brief"])
    before = training(config).extras["reward_version"]
    assert before.startswith("my-rewards 1.2 (") and "my_rewards" not in sys.modules
    installed.write_text(MODULE.replace("< 6", "< 7"))
    after = training(config).extras["reward_version"]
    assert after != before and after == reward_version("brief")
    (installed.parent / "helper.py").write_text("LIMIT = 6\n")
    assert reward_version("brief") != after, "what a reward imports of its package counts too"
    (installed.parent / "helper.py").unlink()
    metadata = installed.parents[1] / "my_rewards-1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    assert reward_version("brief") == after.replace("1.2", "1.3")
    assert "reward_version" not in training(load_config(None, TINY)).extras


def test_another_version_than_the_planned_one_is_refused(importable: Path) -> None:
    with pytest.raises(UserError, match=r"my-rewards 1\.2 .* and my-rewards 1\.1 where the study"):
        named_reward("brief", "my-rewards 1.1")


def test_a_registered_reward_trains_and_evaluation_stays_with_the_verifier(
    importable: Path, tiny_root: Path
) -> None:
    config = load_config(None, [*TINY, "training.reward=brief"])
    folder = run(tiny_root, training(config))
    metrics = [r["values"] for r in read_spool(folder / "spool.jsonl") if r["kind"] == "metrics"]
    assert len(metrics) == 4
    assert all("rewards/brief/mean" in values for values in metrics)
    assert "rewards/verified/mean" not in metrics[0]


def test_a_name_is_looked_up_without_anything_heavy() -> None:
    code = (
        "import sys; from rsgrpo.training.named_rewards import reward_version; "
        "reward_version('verifier'); print([n for n in ('torch', 'trl') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
