"""The config tree: what it reads, what it refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rsgrpo.config import Config, flatten, load_config
from rsgrpo.config_training import ScheduleConfig
from rsgrpo.errors import UserError, unknown

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[1] / "configs").glob("**/*.yaml")
    if "sweep" not in yaml.safe_load(path.read_text(encoding="utf-8"))  # tests/test_presets.py
)


def load(folder: Path, text: str, *overrides: str) -> Config:
    """Load a config file that holds `text`."""
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    """Return the sentence with which a config file that holds `text` is refused."""
    with pytest.raises(UserError) as fault:
        load(folder, text, *overrides)
    return str(fault.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_loads(path: Path) -> None:
    assert load_config(path).name


def test_there_are_config_files_and_all_end_in_yaml() -> None:
    folder = Path(__file__).parents[1] / "configs"
    assert CONFIGS
    assert [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".yaml"] == []


def test_no_file_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    assert load_config(None) == Config()
    assert load(tmp_path, "") == Config()
    assert load(tmp_path, "# nothing yet\n") == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "trainning: {}",
            "unknown config key 'trainning': did you mean training?",
        ),
        (
            "training: {risk_betta: 3}",
            "unknown config key 'training.risk_betta': did you mean training.risk_beta?",
        ),
        (
            "policy: {pretrain: {step: 3}}",
            "unknown config key 'policy.pretrain.step': did you mean policy.pretrain.steps?",
        ),
        (
            "training: {advantage: {nmae: grpo}}",
            "unknown config key 'training.advantage.nmae': did you mean training.advantage.name?",
        ),
        (
            "training: {risk_beta: {schedule: linear, start: 8, edn: 1}}",
            "unknown config key 'training.risk_beta.edn': did you mean training.risk_beta.end?",
        ),
        (
            "training: {risk_beta: {schedule: linear, strat: 8, end: 1}}",
            "unknown config key 'training.risk_beta.strat': did you mean training.risk_beta.start?",
        ),
        (
            "training: {advantage: {name: grppo}}",
            "config key training.advantage in STUDY: unknown advantage 'grppo': did you mean grpo?",
        ),
        (
            "training: {advantage: {name: zzz}}",
            "config key training.advantage in STUDY: unknown advantage 'zzz': "
            "known: rs_grpo, grpo, dr_grpo",
        ),
    ],
)
def test_an_unknown_name_is_met_with_the_nearest_one(
    tmp_path: Path, text: str, sentence: str
) -> None:
    said = refusal(tmp_path, text).replace(str(tmp_path / "study.yaml"), "STUDY")
    assert said.removesuffix(" in STUDY") == sentence


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("training: {risk_beta: high}", "training.risk_beta", "valid number"),
        ("training: {risk_beta: .nan}", "training.risk_beta", "finite number, got nan"),
        ("training: {risk_beta: .inf}", "training.risk_beta", "finite number, got inf"),
        ("training: {risk_beta: {schedule: linear, start: 8}}", "training.risk_beta", "end: 1"),
        (
            "training: {risk_beta: {schedule: constant, start: 8, end: 1}}",
            "training.risk_beta",
            "no end",
        ),
        (
            "training: {risk_beta: {schedule: sawtooth, start: 8}}",
            "training.risk_beta.schedule",
            "'constant', 'linear', 'cosine', 'exponential' or 'phases', got 'sawtooth'",
        ),
        ("training: {risk_beta: {schedule: cosine, start: 8}}", "training.risk_beta", "end: 1"),
        (
            "training: {risk_beta: {schedule: exponential, start: 8, end: 0}}",
            "training.risk_beta",
            "an exponential schedule cannot go from 8 to 0: both must be above 0, or both below it",
        ),
        (
            "training: {risk_beta: {schedule: phases, values: [8, 1], at: [1.5]}}",
            "training.risk_beta",
            "must rise and lie between 0 and 1",
        ),
        (
            "training: {risk_beta: {schedule: phases, start: 8, values: [8, 1], at: [0.5]}}",
            "training.risk_beta",
            "a phases schedule has no start",
        ),
        ("training: {dynamic_sampling: dorp}", "training.dynamic_sampling", "got 'dorp'"),
        ("training: {dynamic_sampling: on}", "training.dynamic_sampling", "got True"),
        ("training: {num_generations: 1}", "training.num_generations", "equal to 2, got 1"),
        ("training: {steps: 1.5}", "training.steps", "got 1.5"),
        ("training: {learning_rate: 0}", "training.learning_rate", "greater than 0, got 0"),
        ("training: 3", "training", "got 3"),
        ("sampling: {top_p: 1.1}", "sampling.top_p", "got 1.1"),
        ("evaluation: {ks: [0, 1]}", "evaluation.ks.0", "got 0"),
        ("grading: {verifier: magic}", "grading.verifier", "got 'magic'"),
        ("data: {source: jsonl}", "data", "name a file in data.train or data.benchmarks"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(
    tmp_path: Path, text: str, key: str, words: str
) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith(f"config key {key} in {tmp_path / 'study.yaml'}: ")
    assert words in said
    assert "\n" not in said


def test_completions_that_cannot_be_split_evenly_are_refused(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        "training: {prompts_per_step: 3, num_generations: 4, minibatches: 5}",
        "training.gradient_accumulation=1",
    )
    assert said.endswith(
        "prompts_per_step * num_generations = 12 completions cannot be split evenly into "
        "minibatches * gradient_accumulation = 5: change one of them"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", "is not valid YAML"), ("- 1", "holds a list, not a mapping"), ("x", "holds a str")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    said = refusal(tmp_path, text)
    assert words in said
    assert "\n" not in said


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as fault:
        load_config(tmp_path / "none.yaml")
    assert (
        str(fault.value) == f"config file {tmp_path / 'none.yaml'} does not exist: check the path"
    )


def test_overrides_win_over_the_file_in_their_order(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "training: {risk_beta: 8, steps: 7}",
        "training.risk_beta=1",
        "training.risk_beta=4",
        "policy.pretrain.steps=3",
        "study.seeds=[5, 6]",
        "training.trl.max_steps=9",
    )
    assert config.training.risk_beta == 4
    assert config.training.steps == 7
    assert config.policy.pretrain.steps == 3
    assert config.study.seeds == (5, 6)
    assert config.training.trl == {"max_steps": 9}


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "0.0001"])
def test_learning_rates_are_read_as_people_write_them(number: str) -> None:
    assert load_config(None, [f"training.learning_rate={number}"]).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.risk_beta", "has no value: write --set training.risk_beta=4"),
        ("=4", "has no value"),
        ("training.risk_betta=4", "did you mean training.risk_beta?"),
        ("training.steps=[1", "'[1' is not a valid value"),
        ("training.steps.x=4", "training.steps"),
    ],
)
def test_a_bad_override_is_refused_in_one_sentence(override: str, words: str) -> None:
    with pytest.raises(UserError) as fault:
        load_config(None, [override])
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "training: {steps: 4}", "training.steps.x=1")
    assert said == "--set 'training.steps.x=1': steps is a value, not a branch of the config"


@pytest.mark.parametrize("word", ["off", "'off'", "no", "false"])
def test_dynamic_sampling_off_is_read_from_yaml(tmp_path: Path, word: str) -> None:
    config = load(tmp_path, f"training: {{dynamic_sampling: {word}}}")
    assert config.training.dynamic_sampling == "off"
    assert load_config(None, [f"training.dynamic_sampling={word}"]).training == config.training


def test_a_schedule_is_read_from_file_and_override(tmp_path: Path) -> None:
    linear = ScheduleConfig(schedule="linear", start=8, end=1)
    text = "{schedule: linear, start: 8, end: 1}"
    assert load(tmp_path, f"training: {{risk_beta: {text}}}").training.risk_beta == linear
    assert load_config(None, [f"training.risk_beta={text}"]).training.risk_beta == linear
    constant = load_config(None, ["training.risk_beta={schedule: constant, start: 3}"])
    assert constant.training.risk_beta == ScheduleConfig(schedule="constant", start=3)


@pytest.mark.parametrize(
    "schedule",
    [
        "{schedule: linear, start: 8, end: 1}",
        "{schedule: phases, values: [8, 4, 1], at: [0.3, 0.7]}",
    ],
)
def test_a_config_survives_the_way_through_a_dump(tmp_path: Path, schedule: str) -> None:
    config = load(tmp_path, f"training: {{risk_beta: {schedule}}}")
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_settings_are_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.steps = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "other"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    absolute = tmp_path / "elsewhere" / "aime.jsonl"
    config = load(
        tmp_path,
        "grading: {verifier: math_verify}\n"
        f"data: {{source: jsonl, train: a/train.jsonl, benchmarks: {{aime: {absolute}}}}}",
    )
    assert config.data.train == tmp_path / "a" / "train.jsonl"
    assert config.data.benchmarks == {"aime": absolute}


def test_flatten_names_every_leaf_once() -> None:
    tree = {"a": {"b": 1, "c": {"d": [2]}}, "e": {}}
    assert list(flatten(tree)) == [("a.b", 1), ("a.c.d", [2]), ("e", {})]
    keys = [key for key, _ in flatten(Config().model_dump())]
    assert len(keys) == len(set(keys))
    assert "training.risk_beta" in keys


def test_unknown_names_all_where_none_is_near() -> None:
    assert (
        unknown("verb", "trian", ["train", "grade"]) == "unknown verb 'trian': did you mean train?"
    )
    assert unknown("verb", "xyz", ["train", "grade"]) == "unknown verb 'xyz': known: train, grade"


def write(folder: Path, **texts: str) -> list[Path]:
    """Write files NAME.yaml and return their paths."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return [folder / f"{name}.yaml" for name in texts]


def test_later_files_win_branch_by_branch(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        model="training: {risk_beta: 8, steps: 7}\nstudy: {seeds: [0, 1]}",
        mine="name: mine\ntraining: {risk_beta: 1}\nstudy: {seeds: [5]}",
    )
    config = load_config(files, ["training.steps=3"])
    assert (config.name, config.training.risk_beta, config.training.steps) == ("mine", 1, 3)
    assert config.study.seeds == (5,)
    assert load_config(files[::-1]).training.risk_beta == 8
    assert load_config([]) == Config()


def test_each_file_has_its_own_folder_for_paths(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    [first] = write(tmp_path / "a", x="data: {source: jsonl, train: t.jsonl}")
    [second] = write(
        tmp_path / "b", y="data: {benchmarks: {own: o.jsonl}}\ngrading: {verifier: math_verify}"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config([first.relative_to(tmp_path), second.relative_to(tmp_path)])
    assert config.data.train == tmp_path / "a" / "t.jsonl"
    assert config.data.benchmarks == {"own": tmp_path / "b" / "o.jsonl"}


@pytest.mark.parametrize(
    ("first", "second", "overrides", "said"),
    [
        (
            "training: {steps: 0}",
            "training: {seed: 1}",
            (),
            "training.steps in {0}/a.yaml: Input should be greater than or equal to 1, got 0",
        ),
        (
            "training: {steps: 1}",
            "training: {steps: 0}",
            (),
            "training.steps in {0}/b.yaml: Input should be greater than or equal to 1, got 0",
        ),
        (
            "training: {steps: 1}",
            "training: {steps: 2}",
            ("training.steps=0",),
            "training.steps in --set: Input should be greater than or equal to 1, got 0",
        ),
        (
            "prompt: {template: plain}",
            "prompt: {system: Think.}",
            (),
            "prompt in {0}/a.yaml, {0}/b.yaml: prompt.system is for the template chat, not plain: "
            "remove one of them",
        ),
    ],
)
def test_a_fault_names_the_file_that_holds_it(
    tmp_path: Path, first: str, second: str, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError) as fault:
        load_config(write(tmp_path, a=first, b=second), overrides)
    assert str(fault.value) == "config key " + said.format(tmp_path)


def test_an_override_replaces_a_whole_schedule(tmp_path: Path) -> None:
    text = "training: {risk_beta: {schedule: linear, start: 8, end: 1}}"
    config = load(tmp_path, text, "training.risk_beta={schedule: constant, start: 3}")
    assert config.training.risk_beta == ScheduleConfig(schedule="constant", start=3)
