"""The config tree: what it reads, what it refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rsgrpo.config import Config, ScheduleConfig, flatten, load_config, unknown
from rsgrpo.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))


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
            "training: {risk_beta: {schedule: cosine, start: 8}}",
            "training.risk_beta.schedule",
            "'constant' or 'linear', got 'cosine'",
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


def test_a_config_survives_the_way_through_a_dump(tmp_path: Path) -> None:
    config = load(tmp_path, "training: {risk_beta: {schedule: linear, start: 8, end: 1}}")
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
