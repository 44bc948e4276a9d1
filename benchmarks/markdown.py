"""Markdown tables, and figures as they stand in them."""

from collections.abc import Iterable, Sequence

from benchmarks.figures import Spread

MISSING = "–"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True) -> str:
    """Return a table; with ``figures``, all columns but the first are to the right."""
    column = "---:" if figures else "---"
    lines = [titles, ["---", *[column] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(spread: Spread | None) -> str:
    """Return a ratio with its spread, like ``**1.25** (1.20..1.31)``."""
    if spread is None:
        return MISSING
    return f"**{number(spread.median)}**{_range(spread)}"


def figure(spread: Spread | None, unit: str = "") -> str:
    """Return a figure with its spread, like ``1,250 (1,200..1,310)``."""
    if spread is None:
        return MISSING
    return f"{number(spread.median)}{unit}{_range(spread)}"


def share(spread: Spread | None) -> str:
    """Return a share of 1 as per cent, like ``25 % (24..26)``."""
    if spread is None:
        return MISSING
    return figure(Spread(*(value * 100 for value in spread)), " %")


def number(value: float) -> str:
    """Return three significant digits of a figure, and all before the point: 0.125, 12.5, 1,250."""
    if value >= 100 or value == 0:  # noqa: PLR2004 -- three digits before the point
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}" if value < 1 else f"{value:.2f}"  # noqa: PLR2004


def _range(spread: Spread) -> str:
    if spread.low == spread.high:
        return ""
    return f" ({number(spread.low)}..{number(spread.high)})"
