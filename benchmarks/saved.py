"""Results as files: one for each section, so that one alone can be measured again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Results

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True)
class Saved:
    """A section's results, and on what they were measured."""

    section: str
    about: Mapping[str, str]
    results: Results


def save(saved: Saved, folder: Path) -> None:
    """Write a section's file, a line for each cell, so that a diff shows what has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = ",\n".join(f"    {json.dumps(cell)}" for cell in saved.results.to_json())
    head = f'"section": {json.dumps(saved.section)},\n  "about": {json.dumps(dict(saved.about))}'
    text = f'{{\n  {head},\n  "cells": [\n{cells}\n  ]\n}}\n'
    (folder / f"{saved.section}.json").write_text(text, encoding="utf-8")


def load_all(folder: Path) -> dict[str, Saved]:
    """Return the sections that the folder has, by name."""
    loaded = {}
    for path in sorted(folder.glob("*.json")):
        read = json.loads(path.read_text(encoding="utf-8"))
        results = Results.from_json(read["cells"])
        loaded[path.stem] = Saved(read["section"], read["about"], results)
    return loaded
