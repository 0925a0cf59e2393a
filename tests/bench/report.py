"""What is printed, and what is put into docs/: figures for programs, for people, and pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infra.local.tools import ROOT
from tests.bench.measure import Figure, rounded
from tests.bench.plot import Step, curve, way
from tests.bench.usage import BY_CPU

DOCS = Path("docs")
FIGURES, TEXT, PLOT = (ROOT / DOCS / f"benchmarks.{suffix}" for suffix in ("json", "md", "svg"))
WAY = ROOT / DOCS / "way.svg"

#: What encloses the table in the text.
BEGIN, END = "<!-- figures: python -m tests.bench --write -->\n", "<!-- end of figures -->\n"

#: Name of the figure that the plot is of, and where in it the costs are.
PLOTTED, COSTS = "cost-per-object", "CPU ms per object, at objects"

#: Name of the figure that an image's way is drawn from: where in it the costs are, and what of MinIO's is which.
STEPS, EACH, MINIO_ALONE = "cpu-outside", "CPU ms per image", "of which MinIO for an image alone"

#: A figure as the file has it.
Known = Mapping[str, Any]


def line(figure: Figure) -> str:
    """A figure for the terminal."""
    known = figure.as_dict()
    verdict = "holds" if figure.holds else "DOES NOT HOLD"
    text = f"{known['number']:>2} {known['name']}: {_spread(known)}, target {known['target']}: {verdict}"
    text += f"\n     {known['what']}: {_sides(known)}"
    return text + "".join(f"\n     {name}: {_told(value)}" for name, value in known["more"].items())


def write(figure: Figure) -> None:
    """Put a figure into the files, in place of the one of the same name."""
    known = {one["name"]: one for one in json.loads(FIGURES.read_text())} if FIGURES.exists() else {}
    known[figure.name] = figure.as_dict()
    ordered = sorted(known.values(), key=lambda one: one["number"])
    FIGURES.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    TEXT.write_text(document(TEXT.read_text(), ordered))
    for path, drawing in pictures(ordered).items():
        path.write_text(drawing)


def document(text: str, figures: Iterable[Known]) -> str:
    """The text with these figures in place of those in it."""
    before, _, after = text.partition(BEGIN)
    return before + BEGIN + table(figures) + END + after.partition(END)[2]


def pictures(figures: Iterable[Known]) -> dict[Path, str]:
    """The pictures of these figures, by their files."""
    found = {}
    for figure in figures:
        if figure["name"] == PLOTTED:
            found[PLOT] = curve({int(objects): float(cost) for objects, cost in figure["more"][COSTS].items()})
        if figure["name"] == STEPS:
            found[WAY] = way(steps(figure["more"][EACH], figure["more"][MINIO_ALONE]))
    return found


def steps(costs: Mapping[str, float], minio: Mapping[str, float]) -> list[Step]:
    """An image's way from the crawler to the index, with the CPU milliseconds of each step."""
    telling = costs["MinIO"] - minio["upload"] - minio["read"]
    return [
        Step("crawler", "puts a picture into the bucket", None),
        Step("MinIO", "stores it", minio["upload"]),
        Step("MinIO", "writes the event to disk, and tells of it twice", telling),
        Step("webhook", "makes one job of both", costs["webhook"]),
        Step("Redis", "keeps the job, and what became of it", costs["redis"]),
        Step("worker", "reads it, sends it, looks whether it changed", costs["worker"]),
        Step("MinIO", "gives it, and is asked once more", minio["read"], 1),
        Step("face service", "asks the index, and writes it", costs["face service"], 1),
        Step("decoder", "makes pixels of bytes", costs["decoders"], 2),
        Step("engine", "finds and describes faces", costs["engines"], 2),
    ]


def table(figures: Iterable[Known]) -> str:
    """The figures as Markdown."""
    head = "| | what | beside | ratio (least to most) | by CPU time | target | |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(_row(figure))} |\n" for figure in figures)


def _row(known: Known) -> list[str]:
    ours, theirs = (f": {rounded(side)}" if side is not None else "" for side in (known["ours"], known["theirs"]))
    what = known["what"] + ours + (f" {known['unit']}" if ours else "")
    verdict = "–" if known["target"] == "–" else "holds" if known["holds"] else "**does not hold**"
    by_cpu = str(known["more"].get(BY_CPU, "–"))
    return [str(known["number"]), what, known["beside"] + theirs, _spread(known), by_cpu, known["target"], verdict]


def _spread(known: Known) -> str:
    if known["rounds"] == 1:
        return f"{known['ratio']}"
    return f"{known['ratio']} ({known['min']} to {known['max']})"


def _sides(known: Known) -> str:
    if known["ours"] is None:
        return str(known["beside"])
    return f"{known['ours']} {known['unit']}; {known['beside']}: {known['theirs']}"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{rounded(value)}" if isinstance(value, float) else str(value)
