"""Plots of results as SVG inside a page: no scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, LABEL_WIDTH, ROW_HEIGHT, MARGIN = 720, 260, 24, 28
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#3d405b")


class Bar(NamedTuple):
    """A mean from 0 to 1 with its interval, where there is one."""

    label: str
    mean: float | None
    low: float | None
    high: float | None


def intervals(title: str, bars: Sequence[Bar]) -> str:
    """One row per mean: a dot, and a line as wide as the interval."""
    height = 2 * MARGIN + ROW_HEIGHT * len(bars)
    parts = [_open(height, title), *_axis(height)]
    for k, bar in enumerate(bars):
        y, colour = MARGIN + ROW_HEIGHT * (k + 0.5), COLOURS[k % len(COLOURS)]
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.label[:40])}</text>')
        if bar.low is not None and bar.high is not None:
            line = f'x1="{_x(bar.low):.1f}" x2="{_x(bar.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            parts.append(f'<line {line} stroke="{colour}" stroke-width="3"/>')
        if bar.mean is not None:
            parts.append(f'<circle cx="{_x(bar.mean):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def curves(title: str, by_label: Mapping[str, Mapping[int, float]]) -> str:
    """One line per label over k, on a scale of whole powers: k = 1, 2, 4 and so on."""
    height = 240
    bottom, top = height - MARGIN, MARGIN
    ks = sorted({k for values in by_label.values() for k in values})
    at = {k: LABEL_WIDTH + (WIDTH - LABEL_WIDTH - MARGIN) * i / max(len(ks) - 1, 1) for i, k in enumerate(ks)}
    parts = [_open(height, title)]
    parts += [f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">k={k}</text>' for k, x in at.items()]
    for value in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * value
        parts.append(f'<line x1="{LABEL_WIDTH}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
    for n, (label, values) in enumerate(by_label.items()):
        colour = COLOURS[n % len(COLOURS)]
        points = " ".join(f"{at[k]:.1f},{bottom - (bottom - top) * value:.1f}" for k, value in sorted(values.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="8" y="{MARGIN + 18 * n}" fill="{colour}">{escape(label[:36])}</text>')
    return "".join([*parts, "</svg>"])


def _open(height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
    )


def _axis(height: int) -> list[str]:
    parts = []
    for tenth in (0, 25, 50, 75, 100):
        x = _x(tenth / 100)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN}" y2="{height - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tenth / 100:g}</text>')
    return parts


def _x(value: float) -> float:
    return LABEL_WIDTH + (WIDTH - LABEL_WIDTH - MARGIN) * value
