"""Samples of one kind are taken over and added to; samples of two kinds never lie together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import Config, PromptConfig, SamplingConfig, load_config
from rsgrpo.data.prepare import prepare
from rsgrpo.errors import UserError
from rsgrpo.policy.load import save_policy
from rsgrpo.policy.tiny import build_model, build_tokenizer
from rsgrpo.records import Problem
from rsgrpo.sampling.sample import Progress, sample, sample_stage
from rsgrpo.sampling.store import alone_in, read_parts

Problems = dict[str, list[Problem]]
SETTINGS = SamplingConfig(batch_size=8, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    out = tmp_path_factory.mktemp("data")
    prepare(tiny_config, out=out)
    return out


@pytest.fixture
def draw(data: Path, policy: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the stage in a folder of its own; return how many completions it has drawn."""

    def run(name: str, *overrides: str, policy: Path = policy) -> int:
        config = load_config(None, ["sampling.batch_size=64", *overrides])
        out = tmp_path / "sample" / name
        out.mkdir(parents=True, exist_ok=True)
        sample_stage(config, data=data, policy=policy, out=out)
        files = out.glob("*/part-*.parquet")
        return sum(len(list(_rows(file))) for file in files if file.stat().st_nlink == 1)

    return run


def _rows(file: Path) -> list[Any]:
    import pyarrow.parquet as pq

    return list(pq.read_table(file).to_pylist())


def drawn_in(folder: Path) -> Counter[tuple[str, str]]:
    return Counter((benchmark, sample.problem_id) for benchmark, sample in read_parts(folder))


def test_256_samples_after_64_draw_192_and_keep_the_64(
    draw: Callable[..., int], tmp_path: Path
) -> None:
    assert draw("few", "sampling.n=64") == 2 * 6 * 64
    assert draw("more", "sampling.n=256") == 2 * 6 * 192
    few, more = tmp_path / "sample" / "few", tmp_path / "sample" / "more"
    assert set(drawn_in(more).values()) == {256}
    rows = dict.fromkeys(read_parts(few))
    first = [(b, s) for b, s in read_parts(more) if s.sample_index < 64]
    assert dict.fromkeys(first) == rows and len(first) == 2 * 6 * 64


def test_64_samples_after_256_draw_nothing_and_are_64(
    draw: Callable[..., int], tmp_path: Path
) -> None:
    draw("more", "sampling.n=256")
    assert draw("few", "sampling.n=50") == 0
    assert set(drawn_in(tmp_path / "sample" / "few").values()) == {50}


def test_one_more_benchmark_costs_only_its_own_samples(
    draw: Callable[..., int], tmp_path: Path
) -> None:
    assert draw("one", "sampling.n=8", "sampling.benchmarks=[T1]") == 2 * 8
    assert draw("two", "sampling.n=8", "sampling.benchmarks=[T1,T2]") == 2 * 8
    assert {benchmark for benchmark, _ in drawn_in(tmp_path / "sample" / "two")} == {
        "T1",
        "T2",
    }


def test_a_limit_takes_the_first_problems_of_each_benchmark(
    draw: Callable[..., int], tmp_path: Path
) -> None:
    assert draw("all", "sampling.n=8") == 2 * 6 * 8
    assert draw("first", "sampling.n=8", "sampling.limit=1") == 6 * 8
    assert len(drawn_in(tmp_path / "sample" / "first")) == 6


def test_an_unknown_benchmark_is_refused_with_the_nearest_name(draw: Callable[..., int]) -> None:
    sentence = "sampling.benchmarks: unknown benchmark 'T11': did you mean T1"
    with pytest.raises(UserError, match=sentence):
        draw("out", "sampling.benchmarks=[T11]")
    with pytest.raises(UserError, match=r"sampling\.n_of: unknown benchmark 'T22'"):
        draw("out", "sampling.n_of={T22: 3}")


@pytest.mark.parametrize(
    "change",
    [
        "sampling.temperature=0.7",
        "sampling.top_p=0.9",
        "sampling.max_new_tokens=9",
        "sampling.batch_size=32",
        "sampling.seed=1",
        "sampling.split=test",
        "prompt.suffix=' 1'",
    ],
)
def test_samples_drawn_otherwise_are_not_taken_over(change: str, draw: Callable[..., int]) -> None:
    assert draw("one", "sampling.n=8") == draw("other", "sampling.n=8", change) == 2 * 6 * 8


def test_samples_of_older_code_are_not_taken_over(draw: Callable[..., int], tmp_path: Path) -> None:
    draw("one", "sampling.n=8")
    file = tmp_path / "sample" / "one" / "settings.json"
    stored = json.loads(file.read_text())
    assert {"code", "torch", "transformers", "policy"} < set(stored["drawn_with"])
    stored["drawn_with"]["code"] = "older"
    file.write_text(json.dumps(stored))
    assert draw("other", "sampling.n=8") == 2 * 6 * 8


def test_samples_of_another_policy_of_the_same_name_are_not_taken_over(
    draw: Callable[..., int], tmp_path: Path
) -> None:
    draw("one", "sampling.n=8")
    assert draw("other", "sampling.n=8", policy=_another_policy(tmp_path)) == 2 * 6 * 8


def test_parts_are_copied_where_they_cannot_be_linked(
    draw: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("one", "sampling.n=8")

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    draw("other", "sampling.n=8")
    folders = [tmp_path / "sample" / name for name in ("one", "other")]
    assert list(read_parts(folders[0])) == list(read_parts(folders[1]))
    assert not list(folders[1].rglob("*.partial"))


def _another_policy(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere" / "policy0"
    changed = Config().policy.model_copy(update={"seed": 1})
    save_policy(build_model(changed), build_tokenizer(), folder)
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": 0.7}, r"temperature = 1\.0, not 0\.7"),
        ({"batch_size": 16}, "batch_size = 8, not 16"),
        ({"seed": 6}, "seed = 5, not 6"),
    ],
)
def test_other_settings_refuse_to_mix(
    change: dict[str, Any], sentence: str, policy: Path, problems: Problems, tmp_path: Path
) -> None:
    sample(policy, problems, 8, out=tmp_path, settings=SETTINGS)
    before = list(read_parts(tmp_path))
    with pytest.raises(UserError, match=sentence):
        sample(policy, problems, 8, out=tmp_path, settings=SETTINGS.model_copy(update=change))
    assert list(read_parts(tmp_path)) == before


def test_another_prompt_policy_or_problem_refuses_to_mix(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sample(policy, problems, 8, out=out, settings=SETTINGS)
    with pytest.raises(UserError, match=r"prompt\.suffix = '', not ' 1'"):
        sample(policy, problems, 8, out=out, settings=SETTINGS, prompt=PromptConfig(suffix=" 1"))
    with pytest.raises(UserError, match=r"drawn with policy = '[0-9a-f]{16}', not '[0-9a-f]{16}'"):
        sample(_another_policy(tmp_path), problems, 8, out=out, settings=SETTINGS)
    changed = {**problems, "hard": [Problem("c", "2 3 5 > 24 :", "24")]}
    with pytest.raises(UserError, match="samples of other problems of benchmark hard"):
        sample(policy, changed, 8, out=out, settings=SETTINGS)


def test_a_moved_policy_more_samples_and_another_benchmark_are_no_change(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    moved = shutil.copytree(policy, tmp_path / "moved")
    easy = {"easy": problems["easy"]}
    out = tmp_path / "out"
    sample(policy, easy, 8, out=out, settings=SETTINGS)
    seen: list[Progress] = []
    sample(moved, problems, 10, out=out, settings=SETTINGS, report=seen.append)
    assert seen[-1].drawn == 2 * 2 + 10
    assert drawn_in(out) == {("easy", "a"): 10, ("easy", "b"): 10, ("hard", "c"): 10}


def test_a_benchmark_may_have_a_number_of_samples_of_its_own(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"n_of": {"hard": 3}})
    sample(policy, problems, 10, out=tmp_path, settings=settings)
    assert drawn_in(tmp_path) == {("easy", "a"): 10, ("easy", "b"): 10, ("hard", "c"): 3}


def test_a_hub_policy_is_known_by_its_revision(policy: Path, tmp_path: Path) -> None:
    """Read from a hub cache on disk, as a download leaves it."""
    repository = tmp_path / "hub" / "models--some--policy"
    (repository / "refs").mkdir(parents=True)
    code = "from rsgrpo.sampling.binding import policy_digest; print(policy_digest('some/policy'))"
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for revision in ("1" * 40, "2" * 40):
        shutil.copytree(policy, repository / "snapshots" / revision)
        (repository / "refs" / "main").write_text(revision)
        printed = subprocess.check_output([sys.executable, "-c", code], env=offline, text=True)
        assert printed.strip() == f"some/policy@{revision}"


def test_what_a_server_serves_is_not_looked_for_on_the_hub() -> None:
    code = (
        "from rsgrpo.config import load_config; from rsgrpo.sampling.binding import settings_of; "
        "config = load_config(None, ['sampling.backend=server']); "
        "bound = settings_of('mine', {}, config.sampling, config.prompt); "
        "print(bound['drawn_with']['policy'])"
    )
    unreachable = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=unreachable, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("mine\n", "")


def test_a_second_process_in_the_same_folder_is_refused(
    policy: Path, problems: Problems, tmp_path: Path
) -> None:
    with alone_in(tmp_path), pytest.raises(UserError, match="another process draws samples into"):
        sample(policy, problems, 4, out=tmp_path, settings=SETTINGS)
    sample(policy, problems, 4, out=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.rglob("*.partial"))


def test_torn_and_vanished_parts_of_a_neighbour_are_drawn_anew(
    policy: Path, problems: Problems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sample(policy, problems, 8, out=tmp_path / "a", settings=SETTINGS)
    expected = list(read_parts(tmp_path / "a"))
    files[0].write_bytes(b"torn")
    link = os.link

    def late(file: Path, place: Path) -> None:
        if file == files[1]:
            file.unlink()
        link(file, place)

    monkeypatch.setattr(os, "link", late)
    neighbours = [tmp_path / "a"]
    sample(policy, problems, 8, out=tmp_path / "b", settings=SETTINGS, neighbours=neighbours)
    assert list(read_parts(tmp_path / "b")) == expected


@pytest.mark.parametrize("record", [b"{", b"\xff", b"[]", b'{"drawn_with": 3, "n": 1}'])
def test_a_damaged_record_is_one_sentence_and_a_neighbours_is_passed_over(
    record: bytes, policy: Path, problems: Problems, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "settings.json").write_bytes(record)
    with pytest.raises(UserError, match="does not tell what its samples were drawn with"):
        sample(policy, problems, 4, out=tmp_path / "a", settings=SETTINGS)
    neighbours = [tmp_path / "a"]
    sample(policy, problems, 4, out=tmp_path / "b", settings=SETTINGS, neighbours=neighbours)
