"""What was measured: a cell for each combination of labels, in it the figures of every round."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

Label = str | int
# One round without figures of its own: it was invalid. None keeps the rounds of all cells paired.
Rounds = list[float | None]


class Spread(NamedTuple):
    """The median of some rounds, and the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the spread of the rounds that are valid, None if none is."""
        valid = [value for value in values if value is not None]
        return cls(statistics.median(valid), min(valid), max(valid)) if valid else None


@dataclass(frozen=True, slots=True)
class Cell:
    """The figures of one combination of labels."""

    labels: dict[str, Label]
    figures: dict[str, Rounds] = field(default_factory=dict)

    def has(self, labels: Mapping[str, Label]) -> bool:
        """Tell whether the cell has all of ``labels``."""
        return all(self.labels.get(name) == value for name, value in labels.items())


class Results:
    """The cells of one section. Labels name what was measured, figures how much of it."""

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        self.cells = list(cells)

    @classmethod
    def from_json(cls, cells: Iterable[Mapping[str, Any]]) -> Self:
        """Return the results that ``to_json`` made."""
        return cls(Cell(dict(cell["labels"]), dict(cell["figures"])) for cell in cells)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the cells as JSON can hold them, figures to five significant digits."""
        return [
            {
                "labels": cell.labels,
                "figures": {name: list(map(_short, each)) for name, each in cell.figures.items()},
            }
            for cell in self.cells
        ]

    def add(self, figures: Mapping[str, float | None], **labels: Label) -> None:
        """Add one round to the cell with exactly these labels."""
        cell = next((each for each in self.cells if each.labels == labels), None)
        if cell is None:
            cell = Cell(dict(labels))
            self.cells.append(cell)
        for name, value in figures.items():
            cell.figures.setdefault(name, []).append(value)

    def values(self, label: str, **labels: Label) -> list[Label]:
        """Return the values of ``label`` in the cells with ``labels``.

        Numbers come by their size, names in the order of measurement.
        """
        cells = (cell.labels for cell in self.cells if cell.has(labels))
        found = list(dict.fromkeys(each[label] for each in cells if label in each))
        return sorted(found, key=lambda value: value if isinstance(value, int) else 0)

    def rounds(self, figure: str, **labels: Label) -> Rounds:
        """Return the rounds of one figure of the one cell with ``labels``; raise LookupError."""
        cells = [cell for cell in self.cells if cell.has(labels) and figure in cell.figures]
        if len(cells) != 1:
            raise LookupError(f"{len(cells)} cells have {figure} of {labels}")
        return cells[0].figures[figure]

    def spread(self, figure: str, **labels: Label) -> Spread | None:
        """Return the spread of a figure; None if it was not measured or no round was valid."""
        try:
            return Spread.of(self.rounds(figure, **labels))
        except LookupError:
            return None

    def ratio(self, figure: str, of: Mapping[str, Label], to: Mapping[str, Label]) -> Spread | None:
        """Return the spread of the ratios within each round, in which drift cancels out."""
        try:
            pairs = zip(self.rounds(figure, **of), self.rounds(figure, **to), strict=True)
        except LookupError:
            return None
        return Spread.of(None if a is None or not b else a / b for a, b in pairs)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
