"""Pictures as SVG: a curve over a logarithmic axis, and an image's way with what each step costs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT, MARGIN = 640, 320, 60

#: Of an image's way: a row with its box, how far one within another stands in, and where bars begin.
ROW, BOX, INDENT, BARS = 44, 32, 24, 430


def curve(costs: Mapping[int, float]) -> str:
    """CPU milliseconds per object over objects in bucket and index."""
    low, high = math.log10(min(costs)), max(math.log10(max(costs)), math.log10(min(costs)) + 1)
    top = max(costs.values()) * 1.25

    def x(objects: float) -> float:
        return MARGIN + (math.log10(objects) - low) / (high - low) * (WIDTH - 2 * MARGIN)

    def y(cost: float) -> float:
        return HEIGHT - MARGIN - cost / top * (HEIGHT - 2 * MARGIN)

    points = " ".join(f"{x(at):.0f},{y(cost):.0f}" for at, cost in costs.items())
    marks = "".join(
        f'<circle cx="{x(at):.0f}" cy="{y(cost):.0f}" r="4" fill="#0074d9"/>'
        + _text(x(at), y(cost) - 12, f"{cost:.3g}")
        + _text(x(at), HEIGHT - MARGIN + 20, f"{at:,}")
        for at, cost in costs.items()
    )
    axes = f"M{MARGIN},{MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN / 2}"
    return _drawing(
        "CPU milliseconds of all processes per new object",
        HEIGHT,
        f'<path d="{axes}" fill="none" stroke="#888"/>\n'
        f'<polyline points="{points}" fill="none" stroke="#0074d9" stroke-width="2"/>\n'
        f"{marks}\n"
        f"{_text(WIDTH / 2, HEIGHT - 12, 'objects in bucket and index')}",
    )


class Step(NamedTuple):
    """A part of the pipeline on an image's way, and its CPU milliseconds; None where they are not ours."""

    name: str
    does: str
    cost: float | None
    #: How deep within the parts before it.
    depth: int = 0


def way(steps: Sequence[Step]) -> str:
    """An image's way downwards, with a bar for what each step costs."""
    longest = max(step.cost or 0 for step in steps)
    rows = []
    for at, step in enumerate(steps):
        left, top = MARGIN / 2 + step.depth * INDENT, MARGIN * 2 / 3 + at * ROW
        if at:
            rows.append(f'<path d="M{left + 12:.0f},{top - ROW + BOX:.0f}v{ROW - BOX}" stroke="#888" fill="none"/>')
        rows.append(
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{BARS - left - 12:.0f}" height="{BOX}" rx="4"'
            f' fill="#eef4fa" stroke="#0074d9"/>'
        )
        rows.append(_text(left + 10, top + 20, f'<tspan font-weight="bold">{step.name}</tspan> {step.does}', "start"))
        if step.cost is not None:
            width = step.cost / longest * (WIDTH - BARS - MARGIN)
            rows.append(
                f'<rect x="{BARS}" y="{top + 5:.0f}" width="{width:.1f}" height="{BOX - 10}" fill="#0074d9"/>'
            )
            rows.append(_text(BARS + width + 6, top + 20, f"{step.cost:.2g}", "start"))
    height = MARGIN + len(steps) * ROW
    return _drawing("An image's way, and the CPU milliseconds of each step", height, "\n".join(rows))


def _drawing(title: str, height: float, content: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>\n'
        f"{content}\n"
        f"{_text(WIDTH / 2, 20, title)}\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    place = f'x="{x:.0f}" y="{y:.0f}"'
    return f'<text {place} text-anchor="{anchor}" font-family="sans-serif" font-size="13" fill="#333">{text}</text>'
