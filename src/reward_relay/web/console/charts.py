"""Small charts as SVG, made on the server: no script, readable by a screen reader, coloured by the style sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

HEIGHT, WIDTH, GAP = 64, 288, 2


@dataclass(frozen=True, slots=True)
class Bar:
    """One bucket of time: what it is called, and how many of each kind; kinds are drawn from the bottom up."""

    label: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The whole bar."""
        return sum(self.parts.values())


def bars(title: str, found: Sequence[Bar]) -> Markup:
    """Stacked bars, oldest left; the tallest fills the height. Each tells its figures as its tooltip."""
    top = max((bar.total for bar in found), default=0) or 1
    width = WIDTH / max(len(found), 1)
    drawn = [_bar(bar, number * width, width - GAP, top) for number, bar in enumerate(found)]
    words = f"{title}: {sum(bar.total for bar in found)}, at most {top if any(b.total for b in found) else 0} at a time"
    return Markup('<svg class="chart" role="img" viewBox="0 0 {} {}" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, words, Markup("").join(drawn)
    )


def _bar(bar: Bar, x: float, width: float, top: int) -> Markup:
    told = ", ".join(f"{number} {kind}" for kind, number in bar.parts.items() if number) or "none"
    drawn = [Markup('<rect class="empty" x="%.1f" y="0" width="%.1f" height="%d"/>') % (x, width, HEIGHT)]
    y = float(HEIGHT)
    for kind, number in bar.parts.items():
        height = max(number / top * (HEIGHT - 2), 1.5) if number else 0.0
        y -= height
        if height:
            drawn.append(
                Markup('<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>')
                % (kind, x, max(y, 0), width, height)
            )
    return Markup("<g><title>%s: %s</title>%s</g>") % (bar.label, told, Markup("").join(drawn))
