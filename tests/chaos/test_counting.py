"""The reckoning sees what went wrong: a count that cannot be other than 0 is worth nothing."""

from dataclasses import replace
from typing import Any

import pytest

from chaos.counting import Reckoning, Seen, Struck, reckon
from chaos.far import Far, Told, read
from chaos.plan import LEAST_OF_A_SORT, PAUSED, SORTS, Reward, draw
from chaos.posting import Posted, Taken

PATH = [(None, "received"), ("received", "placed"), ("placed", "settled"), ("settled", "closed")]
ONE = Reward(1, "roster", "order", copies=1, again_s=None, taken_back_s=0)
OTHER = Reward(2, "influitive", "order", copies=1, again_s=None, taken_back_s=0)


def seen(*rewards: Reward) -> Seen:
    """A run in which all went well."""
    posted, far, orders, events = Posted(), Far(), dict[str, Any](), dict[str, Any]()
    for reward in rewards or (ONE, OTHER):
        order_id = f"id-{reward.number}"
        posted.taken[reward.name] += [Taken("accepted", order_id), Taken("duplicate", order_id)]
        far.made[reward.name].append("Completed")
        far.told[reward.name].append(Told(100.0, "fulfilled", unheard=False))
        keys = {"id": order_id, "source": reward.source, "external_id": reward.external_id}
        orders[order_id] = {**keys, "po_number": f"RR-{reward.number}", "state": "closed", "outcome": "fulfilled"}
        events[order_id] = PATH
    return Seen(rewards or (ONE, OTHER), posted, far, orders, events, (), 1.5)


def wrong(found: Reckoning) -> dict[str, int]:
    """How many mistakes of each kind."""
    return {name: len(each) for name, each in found.mistakes().items() if each}


def test_a_good_run_is_good() -> None:
    found = reckon(seen())
    assert (found.good, wrong(found)) == (True, {})


def test_a_lost_reward_is_seen() -> None:
    run = seen()
    run.far.made[ONE.name].clear()
    assert wrong(reckon(run)) == {"lost": 1, "told_wrongly": 1}


def test_a_doubled_reward_is_seen_also_under_two_keys() -> None:
    run = seen()
    run.far.made[ONE.name].append("Completed")
    assert wrong(reckon(run)) == {"doubled": 1}


def test_an_order_without_an_end_is_seen() -> None:
    run = seen()
    run.orders["id-1"] = {**run.orders["id-1"], "state": "placed"}  # type: ignore[index]
    run.events["id-1"] = PATH[:2]  # type: ignore[index]
    assert wrong(reckon(run)) == {"not_ended": 1}


def test_a_reward_that_was_never_told_is_seen() -> None:
    run = seen()
    run.far.told[OTHER.name].clear()
    assert wrong(reckon(run)) == {"not_told": 1}


def test_a_reward_that_the_relay_forgot_is_seen() -> None:
    run = seen()
    del run.orders["id-1"]  # type: ignore[attr-defined]
    run.far.made[ONE.name].clear()
    run.far.told[ONE.name].clear()
    assert wrong(reckon(run)) == {"lost": 1, "not_ended": 1, "not_told": 1}


@pytest.mark.parametrize("status", ["Completed", "Declined"])
def test_a_wrong_end_is_seen(status: str) -> None:
    run = seen()
    run.far.made[ONE.name] = [status]
    run.far.told[ONE.name] = [Told(100.0, "refused" if status == "Completed" else "fulfilled", unheard=False)]
    assert wrong(reckon(run)) == {"told_wrongly": 1}


def test_a_repeated_closing_call_needs_a_cause() -> None:
    run = seen()
    told = run.far.told[ONE.name]
    told.append(Told(103.0, "fulfilled", unheard=False))
    assert wrong(reckon(run)) == {"told_again_without_cause": 1}
    assert reckon(replace(run, struck=[Struck("worker", 101.0, 103.0)])).good
    assert not reckon(replace(run, struck=[Struck("worker", 90.0, 95.0)])).good
    told[1] = Told(106.0, "fulfilled", unheard=False)
    assert reckon(run).repeats == {"not heard or recorded in time, on a busy machine": 1}
    told[0] = replace(told[0], unheard=True)
    assert reckon(run).repeats == {"the platform's answer was lost": 1}
    told[0] = Told(100.0, "fulfilled", unheard=False, took_s=1.6)
    assert reckon(run).repeats == {"the platform answered too late": 1}


def test_two_orders_for_one_reward_are_seen_in_the_answers() -> None:
    run = seen()
    run.posted.taken[ONE.name].append(Taken("duplicate", "id-9"))
    run.far.strangers.append("order 1 at gcp")
    assert wrong(reckon(run)) == {"mixed_up": 2}


def test_an_answer_without_an_order_id_counts_as_taken() -> None:
    run = seen()
    run.posted.taken[ONE.name][0] = Taken("accepted", None)
    assert reckon(run).good


def test_events_that_jump_are_seen() -> None:
    run = seen()
    run.events["id-1"] = [*PATH[:2], ("settled", "closed")]  # type: ignore[index]
    run.events["id-2"] = [(None, "received"), ("received", "closed")]  # type: ignore[index]
    assert wrong(reckon(run)) == {"illegal": 2}


def test_a_ledger_that_was_written_over_is_seen() -> None:
    assert wrong(reckon(replace(seen(), flaws=["order RR-1 lacks event 2"]))) == {"not_as_written": 1}


def test_a_webhook_that_was_refused_or_never_taken_is_seen() -> None:
    run = seen()
    run.posted.taken[ONE.name].clear()
    run.posted.refused.append("chaos-roster-1: 401")
    assert wrong(reckon(run)) == {"not_answered": 2}


def test_a_withdrawn_reward_ends_without_an_order_or_like_any_other() -> None:
    taken_back = replace(ONE, kind="withdrawn")
    run = seen(taken_back)
    assert reckon(run).good
    run.far.made[taken_back.name].clear()
    run.far.told[taken_back.name].clear()
    run.orders["id-1"] = {**run.orders["id-1"], "outcome": "cancelled"}  # type: ignore[index]
    assert reckon(run).good
    run.far.made[taken_back.name].append("Completed")
    assert wrong(reckon(run)) == {"not_told": 1}


def test_what_asks_for_nothing_gets_nothing() -> None:
    run = seen(replace(ONE, kind="informational"))
    assert wrong(reckon(run)) == {"mixed_up": 1}


def test_the_far_side_is_read_by_rewards() -> None:
    state: dict[str, Any] = {
        "counts": {"weather": {"roster.close: slow": 2}},
        "orders": [
            {"Id": "A", "Vendor": "keyless", "Status": "Completed", "callbacks": [{}], "LineItems": [{"to": ONE.name}]},
            {"Id": "B", "Vendor": "gcp", "Status": "Declined", "callbacks": [], "LineItems": [{"to": "ann"}]},
        ],
        "calls": [
            {
                "at": "2026-01-01T00:00:00+00:00",
                "party": "influitive",
                "operation": "close",
                "key": OTHER.external_id,
                "mode": "error_504",
                "took_s": 0.1,
            }
        ],
        "closings": {
            "influitive": {OTHER.external_id: [{"at": "2026-01-01T00:00:00.1+00:00", "decision": "fulfill"}]},
            "roster": {"else": [{"at": "2026-01-01T00:00:00+00:00", "body": {"status": "cancelled"}}]},
        },
    }
    far = read(state, [ONE, OTHER])
    assert (far.made, far.callbacks) == ({ONE.name: ["Completed"]}, 1)
    (told,) = far.told[OTHER.name]
    assert (told.outcome, told.unheard, told.took_s) == ("fulfilled", True, 0.1)
    assert far.strangers == ["order B at gcp", "closing call for else at roster"]


def test_a_seed_repeats_the_plan_and_strikes_with_every_sort() -> None:
    plan, again, other = (draw(seed, 2000, 30, 4, 1.5) for seed in (7, 7, 8))
    assert plan == again != other
    assert plan.weather == again.weather != other.weather
    assert all(plan.sorts()[sort] >= LEAST_OF_A_SORT for sort in SORTS)
    assert plan.sorts()[PAUSED] >= LEAST_OF_A_SORT
    assert sum(plan.sorts()[sort] for sort in SORTS) == 30
    assert sum(reward.kind != "informational" for reward in plan.rewards) == 2000
    assert {reward.source for reward in plan.rewards if reward.by_asking} == {"roster", "talkable"}
