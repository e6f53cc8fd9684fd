"""The tables of states: what follows what."""

import pytest

from reward_relay.states import STEPS, TRANSITIONS, State, Step, can_go

WAYS = """
received → placed settled on_hold
placed   → settled on_hold
settled  → closed on_hold
closed   →
on_hold  → received placed settled closed
"""


def test_the_ways_between_states_are_these_and_no_others() -> None:
    drawn = {line.split("→")[0].strip(): set(line.split("→")[1].split()) for line in WAYS.strip().splitlines()}
    assert {str(start): {str(end) for end in ends} for start, ends in TRANSITIONS.items()} == drawn


@pytest.mark.parametrize("start", State)
@pytest.mark.parametrize("end", State)
def test_an_order_may_stay_or_go_a_way_of_the_table(start: State, end: State) -> None:
    assert can_go(start, end) == (start == end or end in TRANSITIONS[start])


def test_every_state_has_its_row_in_both_tables() -> None:
    assert set(STEPS) == set(TRANSITIONS) == set(State)


def test_every_step_belongs_to_exactly_one_state() -> None:
    steps = [step for found in STEPS.values() for step in found]
    assert sorted(steps) == sorted(Step)


def test_a_state_without_a_step_is_final_or_waits_for_a_person() -> None:
    assert {state for state, steps in STEPS.items() if not steps} == {State.CLOSED, State.ON_HOLD}


def test_every_state_can_be_held_and_every_order_can_end() -> None:
    for state in State:
        assert state in (State.CLOSED, State.ON_HOLD) or can_go(state, State.ON_HOLD)
        reached = {state}
        while more := {end for start in reached for end in TRANSITIONS[start]} - reached:
            reached |= more
        assert State.CLOSED in reached


def test_nothing_goes_back_without_a_person() -> None:
    line = [State.RECEIVED, State.PLACED, State.SETTLED, State.CLOSED]
    for place, start in enumerate(line):
        assert not TRANSITIONS[start] & set(line[:place])
