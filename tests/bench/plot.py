"""A plot as SVG: one curve over a logarithmic axis."""

import math
from collections.abc import Mapping

WIDTH, HEIGHT, MARGIN = 640, 320, 60


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
    title = "CPU milliseconds of all processes per new object"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<path d="{axes}" fill="none" stroke="#888"/>\n'
        f'<polyline points="{points}" fill="none" stroke="#0074d9" stroke-width="2"/>\n'
        f"{marks}\n"
        f"{_text(WIDTH / 2, HEIGHT - 12, 'objects in bucket and index')}\n"
        f"{_text(WIDTH / 2, 20, title)}\n</svg>\n"
    )


def _text(x: float, y: float, text: str) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}"'
    return f'<text {place} text-anchor="middle" font-family="sans-serif" font-size="13" fill="#333">{text}</text>'
