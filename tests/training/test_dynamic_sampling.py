"""Which groups stay, which are redrawn: hand-made cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsgrpo.training.dynamic_sampling import (
    Rollouts,
    fresh_prompts,
    join_gathered,
    live_groups,
    plan_refill,
    rows_after_refill,
    rows_to_keep,
    select_gathered,
)

LIVE = torch.tensor([[True, False, True, False], [False, False, True, False]])


def test_a_group_is_live_when_its_rewards_differ() -> None:
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0, float("nan"), 1])
    assert live_groups(rewards, ranks=2, group_size=2).tolist() == [[True, False], [False, False]]


def test_every_rank_keeps_as_many_rows_as_the_one_with_most_live_groups() -> None:
    rows = rows_to_keep(LIVE, group_size=2, divisor=2)
    assert rows.tolist() == [[0, 1, 4, 5], [0, 1, 4, 5]]


def test_rows_fill_up_until_they_divide() -> None:
    one = torch.tensor([[False, True, False, False]])
    assert rows_to_keep(one, group_size=3, divisor=2).tolist() == [[0, 1, 2, 3, 4, 5]]
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert rows_to_keep(none, group_size=2, divisor=2).tolist() == [[0, 1]]


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
)
def test_no_live_group_is_ever_dropped(live: list[list[bool]], size: int, divisor: int) -> None:
    live_WG = torch.tensor(live)
    rows = rows_to_keep(live_WG, size, divisor)
    assert rows.shape[1] % divisor == 0 or rows.shape[1] == 4 * size
    for rank, groups in enumerate(live):
        kept = {row // size for row in rows[rank].tolist()}
        assert {group for group, alive in enumerate(groups) if alive} <= kept
        assert rows.shape[1] == len(kept) * size


def test_redrawn_groups_take_fresh_prompts_in_global_order_and_their_old_slots() -> None:
    refill = plan_refill(LIVE, first_prompt=10)
    assert refill.width == 3
    assert refill.slots == [[1, 3], [0, 1, 3]]
    assert refill.prompts == [[10, 11], [12, 13, 14]]
    rows = rows_after_refill(refill, rows=8, group_size=2)
    assert rows.tolist() == [[0, 1, 8, 9, 4, 5, 10, 11], [8, 9, 10, 11, 4, 5, 12, 13]]


def test_fresh_prompts_depend_on_seed_and_step_and_go_on_across_rounds() -> None:
    first = fresh_prompts(seed=1, step=5, first=0, count=4, size=20)
    assert first + fresh_prompts(1, 5, 4, 3, 20) == fresh_prompts(1, 5, 0, 7, 20)
    assert first != fresh_prompts(seed=1, step=6, first=0, count=4, size=20)
    assert sorted(fresh_prompts(1, 5, 0, 20, 20)) == list(range(20))
    assert len(fresh_prompts(1, 5, 0, 50, 20)) == 50


def test_gathered_rewards_are_joined_and_selected_rank_by_rank() -> None:
    first = torch.arange(4.0).view(4, 1)
    second = torch.tensor([[10.0], [20.0]])
    joined = join_gathered(first, second, ranks=2)
    assert joined.flatten().tolist() == [0, 1, 10, 2, 3, 20]
    taken = select_gathered(joined, torch.tensor([[2, 0], [1, 2]]))
    assert taken.flatten().tolist() == [10, 0, 3, 20]


@pytest.mark.parametrize("logprobs", [None, [[0.1], [0.2], [0.3]]])
def test_rollouts_are_joined_and_selected_together(logprobs: list[list[float]] | None) -> None:
    rows = Rollouts([[1], [2], [3]], [[4], [5], [6]], None, ["a", "b", "c"], logprobs, {}, None, [])
    joined = rows.joined(rows.selected([1]))
    assert joined.completions == ["a", "b", "c", "b"]
    assert joined.selected([3, 0]).completion_ids == [[5], [4]]
    assert joined.logprobs == (logprobs and [*logprobs, logprobs[1]])
