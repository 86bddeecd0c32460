"""The named data sets: six benchmarks and four training sets, as one table.

Every revision is a commit that public code states for the set. Where none could be found it is
None: `rsgrpo data prepare` then takes the commit that is current and records it in
`NAME.source.json`, which is the pin from then on. Licences are as their publishers state them;
"not stated" does not mean free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from rsgrpo.errors import UserError


def as_it_stands(text: str) -> str:
    """Return the text without surrounding white space."""
    return text.strip()


def after_hashes(solution: str) -> str:
    """Return what follows the last `####` of a GSM8K solution, without thousands separators."""
    return solution.rpartition("####")[2].strip().replace(",", "")


def without_dapo_frame(prompt: str) -> str:
    """Return the problem inside DAPO's instructions.

    Raises:
        ValueError: The prompt does not have the frame.
    """
    found = re.fullmatch(
        r"Solve the following math problem.*?\n\n(.*)\n\nRemember to put your answer.*",
        prompt.strip(),
        re.DOTALL,
    )
    if not found:
        raise ValueError("a prompt without DAPO's instructions")
    return found[1].strip()


class DataSet(NamedTuple):
    """One named set.

    `rows` counts the published split. `problem` and `answer` are columns, with dots into nested
    ones, and how each is read; `file` is its name in a folder of JSONL files.
    """

    name: str
    kind: Literal["benchmark", "training"]
    hub_id: str
    config: str | None
    split: str
    revision: str | None
    rows: int
    licence: str
    file: str
    problem: str = "problem"
    answer: str = "answer"
    read_problem: Callable[[str], str] = as_it_stands
    read_answer: Callable[[str], str] = as_it_stands


_MATHARENA = "CC BY-NC-SA 4.0"

_SETS = (
    DataSet(
        "aime24",
        "benchmark",
        "HuggingFaceH4/aime_2024",
        None,
        "train",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        30,
        "not stated",
        "aime24.jsonl",
    ),
    DataSet(
        "aime25",
        "benchmark",
        "MathArena/aime_2025",
        None,
        "train",
        "c94da77eb22bbd6439e62a323bec18493a421302",
        30,
        _MATHARENA,
        "aime25.jsonl",
    ),
    DataSet(
        "hmmt_feb24",
        "benchmark",
        "MathArena/hmmt_feb_2024",
        None,
        "train",
        None,
        30,
        _MATHARENA,
        "hmmt_feb24.jsonl",
    ),
    DataSet(
        "hmmt_feb25",
        "benchmark",
        "MathArena/hmmt_feb_2025",
        None,
        "train",
        "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
        30,
        _MATHARENA,
        "hmmt_feb25.jsonl",
    ),
    DataSet(
        "cmimc25",
        "benchmark",
        "MathArena/cmimc_2025",
        None,
        "train",
        "8f27517ce4ad1d05e023c0e7eca4344754ba2a04",
        40,
        _MATHARENA,
        "cmimc25.jsonl",
    ),
    DataSet(
        "math500",
        "benchmark",
        "HuggingFaceH4/MATH-500",
        None,
        "test",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        500,
        "not stated; MATH: MIT",
        "math500.jsonl",
    ),
    DataSet(
        "math12k",
        "training",
        "hiyouga/math12k",
        None,
        "train",
        None,
        12_000,
        "MATH: MIT; this copy not checked",
        "math12k.jsonl",
    ),
    # Published with each of its 17,917 problems a hundred times.
    DataSet(
        "dapo17k",
        "training",
        "BytedTsinghua-SIA/DAPO-Math-17k",
        None,
        "train",
        "65877096c24ffa7abc4e4fa5edb95cf3413a5674",
        1_791_700,
        "Apache-2.0",
        "dapo17k.jsonl",
        problem="prompt.0.content",
        answer="reward_model.ground_truth",
        read_problem=without_dapo_frame,
    ),
    DataSet(
        "deepmath103k",
        "training",
        "zwhe99/DeepMath-103K",
        None,
        "train",
        "5cf055d1fe3d7a2eb19719ac020211469736ae44",
        103_022,
        "MIT",
        "deepmath103k.jsonl",
        problem="question",
        answer="final_answer",
    ),
    DataSet(
        "gsm8k",
        "training",
        "openai/gsm8k",
        "main",
        "train",
        "740312add88f781978c0658806c59bc2815b9866",
        7_473,
        "MIT",
        "gsm8k_train2k.jsonl",
        problem="question",
        read_answer=after_hashes,
    ),
)

CATALOGUE: dict[str, DataSet] = {entry.name: entry for entry in _SETS}


def data_folder() -> Path:
    """Return where prepared sets lie: `RSGRPO_DATA`, or `data` below the current directory."""
    return Path(os.environ.get("RSGRPO_DATA") or "data").absolute()


def could_be_a_name(text: str) -> bool:
    """Return whether a word is a name rather than a path: no separator and no ending."""
    return "/" not in text and not Path(text).suffix


def file_of(place: str | Path) -> Path:
    """Return the file of a catalogue name, or the path itself.

    Raises:
        UserError: The named set is not prepared.
    """
    if str(place) not in CATALOGUE:
        return Path(place)
    file = data_folder() / f"{place}.jsonl"
    if not file.exists():
        raise UserError(
            f"data set {place} is not in {file.parent}: run rsgrpo data prepare {place}, or set "
            "RSGRPO_DATA to the folder that has it"
        )
    return file
