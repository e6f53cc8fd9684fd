"""The honest end of an example: no more faults, and operators who do what the hold reasons say."""

from collections.abc import Mapping
from typing import Any

from model.invariants import look
from model.world import PARTIES, World
from reward_relay.contracts import Progress
from reward_relay.errors import NotAllowed
from reward_relay.states import Outcome

ROUNDS = 60
DAY_S = 90_000.0
WHO = "patience"


async def ended_honestly(world: World, wanted: Mapping[str, str], let_off: set[str]) -> None:
    """Let everything end, and count outside.

    Raises:
        AssertionError: an order does not end, or a reward that nobody took back was not placed once and told.
    """
    world.breaks = None
    await world.crash(world.workers)
    world.take_routes("own")
    for platform in world.platforms.values():
        platform.mended = True
    let_off |= await _run_dry(world)
    orders = {str(row["id"]): row for row in (await look(world)).orders}
    for name, order_id in wanted.items():
        order = orders[order_id]
        bought, told = world.books.bought.get(order["po_number"], []), world.books.told.get(name, [])
        if name in world.books.withdrawn or order_id in let_off:
            continue
        assert len(bought) == 1, f"{name} was bought {len(bought)} times"
        assert told, f"{name} ended as {order['outcome']}, and its platform was not told"
        right = Outcome.FULFILLED if bought[0].progress is Progress.FULFILLED else Outcome.REFUSED
        assert set(told) == {right} == {order["outcome"]}, f"{name}: {bought}, told {told}"


async def _run_dry(world: World) -> set[str]:
    """Work until every order is closed; the orders that had to be closed by hand."""
    by_hand: set[str] = set()
    for _ in range(ROUNDS):
        for party in PARTIES:
            await _allowed(world.relay.ops.resume(party, WHO, ""))
        while world.books.under_way:
            world.books.arrive(*world.books.under_way.pop(0))
        for purchase in world.books.purchases():
            if purchase.progress is Progress.PENDING:
                purchase.progress = Progress.FULFILLED
        while await world.work(world.workers[0]):
            pass
        seen = await look(world)
        left = [row for row in seen.orders if row["state"] != "closed"]
        if not left:
            return by_hand
        for row in left:
            if row["state"] == "on_hold" and await _decided(world, row):
                by_hand.add(str(row["id"]))
        await world.passes(DAY_S)
    raise AssertionError(f"no end of {[(row['external_id'], row['state'], row['hold_reason']) for row in left]}")


async def _decided(world: World, row: Mapping[str, Any]) -> bool:
    """What a careful operator does with a held order; whether it is ended by hand."""
    there = world.books.bought.get(row["po_number"])
    unknown = there and not row["vendor_order_id"]
    if unknown and not world.vendors[row["vendor"]].takes_key and not world.vendors[row["vendor"]].can_find:
        await world.relay.ops.close(str(row["id"]), WHO, "it is there", Outcome.FULFILLED)
        return True
    if await _allowed(world.relay.ops.release(str(row["id"]), WHO, "")):
        return False
    if not row["reward"]["recipient"].get("email"):
        name, item = row["external_id"], row["reward"]["items"][0]
        again = world.request(name, "reward", item["quantity"], "ann@example.com")
        await world.relay.intake.receive(row["source"], again)
        return False
    return await _allowed(world.relay.ops.refuse(str(row["id"]), WHO, "it has no route"))


async def _allowed(doing: Any) -> bool:
    try:
        await doing
    except NotAllowed:
        return False
    return True
