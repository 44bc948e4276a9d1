"""Results of a section: the figures of every round, by labels, and the file that keeps them."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

RESULTS = Path(__file__).with_name("results")

Label = str | int
# None is a round without a figure, because it failed. It keeps the rounds of all cells paired.
Rounds = list[float | None]


class Spread(NamedTuple):
    """The median of some rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the spread of the valid rounds, or None without a valid round."""
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


@dataclass(frozen=True, slots=True)
class Results:
    """The cells of one section, and the circumstances of its measurement."""

    about: Mapping[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def add(self, figures: Mapping[str, float | None], **labels: Label) -> None:
        """Add one round to the cell with exactly these labels, to five significant digits."""
        cell = next((each for each in self.cells if each.labels == labels), None)
        if cell is None:
            cell = Cell(labels)
            self.cells.append(cell)
        for name, value in figures.items():
            rounded = None if value is None else float(f"{value:.5g}")
            cell.figures.setdefault(name, []).append(rounded)

    def values(self, label: str, **labels: Label) -> list[Label]:
        """Return the values of ``label`` among the cells with ``labels``, numbers in their order.

        Names keep the order of measurement.
        """
        cells = (cell.labels for cell in self.cells if cell.has(labels))
        found = list(dict.fromkeys(each[label] for each in cells if label in each))
        return sorted(found, key=lambda value: value if isinstance(value, int) else 0)

    def rounds(self, figure: str, **labels: Label) -> Rounds:
        """Return all rounds of a figure, none if it was not measured.

        Raises LookupError if more than one cell with ``labels`` has it.
        """
        cells = [cell for cell in self.cells if cell.has(labels) and figure in cell.figures]
        if len(cells) > 1:
            raise LookupError(f"{len(cells)} cells have {figure} of {labels}")
        return cells[0].figures[figure] if cells else []

    def spread(self, figure: str, **labels: Label) -> Spread | None:
        """Return the spread of a figure, or None without a valid round."""
        return Spread.of(self.rounds(figure, **labels))

    def ratio(
        self, figure: str, label: str, of: Label, to: Label, **labels: Label
    ) -> Spread | None:
        """Return the spread of the ratios within each round, so that drift cancels out.

        The two cells have ``labels`` and differ in ``label``. Return None if either was not
        measured.
        """
        ours, theirs = (self.rounds(figure, **labels | {label: value}) for value in (of, to))
        if not ours or not theirs:
            return None
        pairs = zip(ours, theirs, strict=True)
        return Spread.of(None if a is None or not b else a / b for a, b in pairs)

    def failures(self) -> list[str]:
        """Return a line for each cell in which rounds failed."""
        return [
            f"{', '.join(f'{key} {value}' for key, value in cell.labels.items())}:"
            f" {failed} of {len(rounds)} rounds failed"
            for cell in self.cells
            if (rounds := cell.figures.get("failed", [])) and (failed := sum(map(bool, rounds)))
        ]


def save(section: str, results: Results, folder: Path) -> None:
    """Write the file of a section, with one line for each cell, so that a diff is readable."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = ",\n".join(f"    {json.dumps(asdict(cell))}" for cell in results.cells)
    text = f'{{\n  "about": {json.dumps(dict(results.about))},\n  "cells": [\n{cells}\n  ]\n}}\n'
    (folder / f"{section}.json").write_text(text, encoding="utf-8")


def load_all(folder: Path = RESULTS) -> dict[str, Results]:
    """Return the saved results of every section, by its name."""
    loaded = {}
    for path in sorted(folder.glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        loaded[path.stem] = Results(saved["about"], [Cell(**cell) for cell in saved["cells"]])
    return loaded
