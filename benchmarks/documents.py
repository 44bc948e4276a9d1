"""The tables in the documents: between marks, made of the saved results and by nobody's hand."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "REVIEW.md", *sorted((ROOT / "docs").glob("*.md")))
_REGION = re.compile(r"<!-- benchmark:([\w-]+) -->\n(.*?)<!-- /benchmark -->", re.DOTALL)


def regions(text: str) -> dict[str, str]:
    """Return what stands between the marks ``<!-- benchmark:NAME -->``, by name."""
    return {name: content.strip() for name, content in _REGION.findall(text)}


def rewritten(text: str, tables: Mapping[str, str]) -> str:
    """Return ``text`` with each table between its marks; those without a table stay."""

    def region(found: re.Match[str]) -> str:
        name, content = found.groups()
        table = f"\n{tables[name]}\n\n" if name in tables else content
        return f"<!-- benchmark:{name} -->\n{table}<!-- /benchmark -->"

    return _REGION.sub(region, text)


def seen_from(document: Path, tables: Mapping[str, str]) -> dict[str, str]:
    """Return the tables with their links, which begin at the root, as ``document`` needs them."""
    up = "../" * (len(document.relative_to(ROOT).parts) - 1)
    return {
        name: table.replace("](benchmarks/", f"]({up}benchmarks/") for name, table in tables.items()
    }


def rewrite_all(tables: Mapping[str, str]) -> None:
    """Put the tables into every document."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        document.write_text(rewritten(text, seen_from(document, tables)), encoding="utf-8")
