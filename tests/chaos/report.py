"""What a run comes to: a table for people, JSON for documents."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.storm import Run

TITLES = {
    "lost": "lost: taken with 2xx, and no order at the vendor",
    "doubled": "doubled: more than one order at the vendor",
    "not_ended": "not ended",
    "not_told": "ended, and the platform was never told",
    "told_wrongly": "the platform was told otherwise than it ended",
    "told_again_without_cause": "told again without a reason",
    "mixed_up": "orders or answers for something else",
    "not_answered": "deliveries refused or never taken",
    "illegal": "events that make no legal path",
    "not_as_written": "flaws of the ledger",
}
SHOWN = 5


def figures(run: Run) -> dict[str, Any]:
    """Everything as JSON."""
    seen, plan = run.seen, run.plan
    made = [status for statuses in seen.far.made.values() for status in statuses] if seen else []
    told = sum(len(each) for each in seen.far.told.values()) if seen else 0
    return {
        "seed": plan.seed,
        "good": run.reckoning.good and run.phase == "ended",
        "phase": run.phase,
        "took_s": round(run.took_s, 1),
        "storm_s": round(run.storm_s, 1),
        "rewards": dict(Counter(reward.kind for reward in plan.rewards)),
        "sources": dict(Counter(reward.source for reward in plan.rewards)),
        "posts": run.posted.attempts,
        "answers": dict(run.posted.answers.most_common()),
        "taken": dict(Counter(each.verdict for all_ in run.posted.taken.values() for each in all_)),
        "kills": dict(sorted(Counter(each.sort for each in run.struck).items())),
        "struck": [f"{each.at - run.began:.1f}-{each.until - run.began:.1f} s: {each.sort}" for each in run.struck],
        "faults": seen.far.faults if seen else {},
        "vendor_orders": len(made),
        "vendor_refused": made.count("Declined"),
        "callbacks": seen.far.callbacks if seen else 0,
        "closing_calls": told,
        "closing_repeats": dict(run.reckoning.repeats),
        "hurried": len(run.hurried),
        "needed_a_person": dict(run.reasons()),
        "parties_resumed": dict(run.resumed),
        "mistakes": run.reckoning.mistakes(),
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """The table."""
    table = Table(title=f"Chaos, seed {found['seed']}: {'good' if found['good'] else 'NOT GOOD'}", title_style="bold")
    table.add_column("what")
    table.add_column("how many", justify="right")
    table.add_column("of which", overflow="fold")
    kills = found["kills"]
    table.add_row("rewards", f"{sum(found['rewards'].values()):,}", _parts(found["rewards"]))
    table.add_row("deliveries posted", f"{found['posts']:,}", _parts(found["answers"]))
    table.add_row("taken", f"{sum(found['taken'].values()):,}", _parts(found["taken"]))
    table.add_row("kills and pauses", f"{sum(kills.values())}", _parts(kills))
    table.add_row("faults of the far side", f"{sum(found['faults'].values()):,}", _parts(_by_mode(found["faults"])))
    table.add_row("vendor's orders", f"{found['vendor_orders']:,}", f"refused {found['vendor_refused']}")
    table.add_row("vendor's callbacks", f"{found['callbacks']:,}")
    repeats = found["closing_repeats"]
    table.add_row("closing calls", f"{found['closing_calls']:,}", f"repeats {_parts(repeats) or 0}")
    table.add_row("orders hurried by a person", f"{found['hurried']:,}")
    needed = found["needed_a_person"]
    table.add_row("orders that needed a person", f"{sum(needed.values()):,}", _parts(needed, "\n"))
    table.add_row("parties resumed by a person", f"{sum(found['parties_resumed'].values())}")
    table.add_section()
    for name, mistakes in found["mistakes"].items():
        few = "\n".join(mistakes[:SHOWN]) + (f"\n… and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else "")
        table.add_row(TITLES[name], f"[{'red' if mistakes else 'green'}]{len(mistakes)}[/]", few)
    table.caption = f"{found['took_s']:.0f} s, of which {found['storm_s']:.0f} s of storm; {found['phase']}"
    console.print(table)


def _by_mode(faults: dict[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for place, count in faults.items():
        found[place.partition(": ")[2]] += count
    return dict(found.most_common())


def _parts(counts: dict[str, int], between: str = ", ") -> str:
    return between.join(f"{name} {count:,}" for name, count in counts.items())
