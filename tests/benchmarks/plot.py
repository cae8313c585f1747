"""Draw how seconds grow with tiles as SVG, without a library: logarithmic axes, one line for each command."""

from collections.abc import Iterator, Mapping
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 24, 46
_COLOURS: Final = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"),
    *("#bbbbbb", "#222255", "#663333", "#225555", "#999933"),
)
"""Colours that people who see few of them tell apart (P. Tol, "bright" and "dark")."""


def plotted(seconds: Mapping[int, Mapping[str, float]], exponents: Mapping[str, float]) -> str:
    """Return an SVG image.

    Args:
        seconds: By number of tiles and name of what was measured.
        exponents: What was fitted, by name.
    """
    sizes = sorted(seconds)
    names = sorted(seconds[sizes[-1]], key=lambda name: -seconds[sizes[-1]][name])
    every = [max(seconds[size][name], 1e-4) for size in sizes for name in names]
    x0, x1 = log10(sizes[0]), log10(sizes[-1])
    y0, y1 = floor(log10(min(every))), ceil(log10(max(every)))

    def place(size: int, value: float) -> tuple[float, float]:
        along = (log10(size) - x0) / (x1 - x0 or 1)
        up = (log10(max(value, 1e-4)) - y0) / (y1 - y0 or 1)
        return _LEFT + along * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(y0, y1 + 1):
        _, y = place(sizes[0], 10.0**power)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_shown(10.0**power)}</text>')
    for size in sizes:
        x, _ = place(size, 1)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">tiles</text>')
    ends = dict(_apart({name: place(sizes[-1], seconds[sizes[-1]][name])[1] for name in names}))
    for name, colour in zip(names, _COLOURS, strict=False):
        points = [place(size, seconds[size][name]) for size in sizes if name in seconds[size]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
        exponent = f" n^{exponents[name]:.2f}" if name in exponents else ""
        at = WIDTH - _RIGHT + 10
        parts.append(f'<text x="{at}" y="{ends[name] + 4:.1f}" fill="{colour}">{name}{exponent}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _shown(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _apart(heights: Mapping[str, float], least: float = 15.0) -> Iterator[tuple[str, float]]:
    """Move labels down until none covers another."""
    below = 0.0
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        below = max(height, below + least)
        yield name, below
