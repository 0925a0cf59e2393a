"""What is printed, and what is put into docs/: figures for programs, for people, and a plot."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infra.local.tools import ROOT
from tests.bench.measure import Figure, rounded
from tests.bench.plot import curve

DOCS = Path("docs")
FIGURES, TEXT, PLOT = (ROOT / DOCS / f"benchmarks.{suffix}" for suffix in ("json", "md", "svg"))

#: What encloses the table in the text.
BEGIN, END = "<!-- figures: python -m tests.bench --write -->\n", "<!-- end of figures -->\n"

#: Name of the figure that the plot is of.
PLOTTED = "cost-per-object"


def line(figure: Figure) -> str:
    """A figure for the terminal."""
    known = figure.as_dict()
    verdict = "holds" if figure.holds else "DOES NOT HOLD"
    text = f"{known['number']:>2} {known['name']}: {_spread(known)}, target {known['target']}: {verdict}"
    text += f"\n     {known['what']}: {_sides(known)}"
    return text + "".join(f"\n     {name}: {_told(value)}" for name, value in known["more"].items())


def write(figures: Iterable[Figure]) -> None:
    """Put figures into the files, in place of those of the same name."""
    known = {one["name"]: one for one in json.loads(FIGURES.read_text())} if FIGURES.exists() else {}
    known |= {figure.name: figure.as_dict() for figure in figures}
    ordered = sorted(known.values(), key=lambda one: one["number"])
    FIGURES.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    if PLOTTED in known:
        costs = known[PLOTTED]["more"]["CPU ms per object, at objects"]
        PLOT.write_text(curve({int(at): float(cost) for at, cost in costs.items()}))
    text = TEXT.read_text()
    before, _, after = text.partition(BEGIN)
    TEXT.write_text(before + BEGIN + _table(ordered) + END + after.partition(END)[2])


def _table(figures: Iterable[Mapping[str, Any]]) -> str:
    head = "| | what | beside | ratio (least to most) | target | |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {one['number']} | {one['what']}: {rounded(one['ours'])} {one['unit']} | {one['beside']}: "
        f"{rounded(one['theirs'])} | {_spread(one)} | {one['target']} | {'holds' if one['holds'] else '**no**'} |\n"
        if one["ours"] is not None
        else f"| {one['number']} | {one['what']} | {one['beside']} | {_spread(one)} | {one['target']} "
        f"| {'holds' if one['holds'] else '**no**'} |\n"
        for one in figures
    )


def _spread(known: Mapping[str, Any]) -> str:
    if known["rounds"] == 1:
        return f"{known['ratio']}"
    return f"{known['ratio']} ({known['min']} to {known['max']})"


def _sides(known: Mapping[str, Any]) -> str:
    if known["ours"] is None:
        return str(known["beside"])
    return f"{known['ours']} {known['unit']}; {known['beside']}: {known['theirs']}"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)
