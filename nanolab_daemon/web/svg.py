"""Drawings: small curves and the plot of a run, as numbers for the templates. Colours are the style sheet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanolab_daemon.web.curves import Axes, Series, Values

THUMB = (160, 56)
PLOT = (880, 460)
MARGIN = (92, 22, 20, 66)  # left, right, top, bottom
_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
_LEAST_SPAN = 1e-290  # below it, differences have no digits left to divide by
_SCALED = ("A", "V", "W", "Ohm", "s")


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis, at a place in the drawing."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve to draw; `style` chooses its colour, `lone` is a curve of one point."""

    name: str
    style: str
    points: str
    lone: bool
    rows: int


@dataclass(frozen=True, slots=True)
class Plot:
    """A whole drawing: what the template needs, and the scales for reading values off it."""

    width: int
    height: int
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero_x: float | None
    zero_y: float | None
    lines: tuple[Line, ...]
    x_unit: str
    y_unit: str


def thumbnail(x: Values, y: Values) -> str:
    """Give the points of a small curve, which fills its frame; empty where there is nothing to draw."""
    if not len(x):
        return ""
    width, height = THUMB
    left, right = _span(x)
    low, high = _span(y)
    px = 3 + (x - left) / (right - left) * (width - 6)
    py = height - 3 - (y - low) / (high - low) * (height - 6)
    return _points(px, py)


def plot(axes: Axes, whole: Series, segments: Sequence[Series], *, log: bool) -> Plot | None:
    """Lay out a run's plot; `log`: the size of y on a logarithmic scale. None where there is nothing to draw."""
    drawn = [whole, *segments]
    if log:
        drawn = [_logarithmic(one) for one in drawn]
    if not len(drawn[0].x):
        return None
    width, height = PLOT
    frame = (float(MARGIN[0]), float(MARGIN[2]), float(width - MARGIN[1]), float(height - MARGIN[3]))
    left, right = _padded(_span(drawn[0].x), 0.02)
    low, high = _padded(_span(drawn[0].y), 0.05)
    x_power, x_label = _scaled(axes.x, drawn[0].x)
    y_power, y_label = (0, f"log₁₀ |{axes.y}|") if log else _scaled(axes.y, drawn[0].y)

    def place_x(value: float) -> float:
        return frame[0] + (value - left) / (right - left) * (frame[2] - frame[0])

    def place_y(value: float) -> float:
        return frame[3] - (value - low) / (high - low) * (frame[3] - frame[1])

    lines = []
    for number, one in enumerate(drawn):
        px = frame[0] + (one.x - left) / (right - left) * (frame[2] - frame[0])
        py = frame[3] - (one.y - low) / (high - low) * (frame[3] - frame[1])
        style = "whole" if number == 0 else style_of(one.name, number - 1)
        lines.append(Line(one.name, style, _points(px, py), len(one.x) == 1, len(one.x)))
    return Plot(
        width=width,
        height=height,
        frame=frame,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(Tick(place_x(at), _label(at, x_power)) for at in ticks(left, right, 8)),
        y_ticks=tuple(Tick(place_y(at), _label(at, y_power)) for at in ticks(low, high, 6)),
        zero_x=place_x(0.0) if left < 0.0 < right else None,
        zero_y=place_y(0.0) if low < 0.0 < high and not log else None,
        lines=tuple(lines),
        x_unit=axes.x,
        y_unit=axes.y,
    )


def style_of(name: str, number: int) -> str:
    """Choose the colour of a segment: light and dark have theirs, all else takes turns."""
    if name.startswith("dark"):
        return "dark"
    if name.startswith("light"):
        return "light"
    return f"s{number % 6}" + (" return" if name.startswith("return") else "")


def ticks(low: float, high: float, about: int) -> list[float]:
    """Give round numbers between two, about so many."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float, power: int) -> str:
    text = f"{value / 10.0**power:.10g}"
    shorter = f"{value / 10.0**power:.6g}"
    return (shorter if float(shorter) == float(text) or len(text) > 9 else text).replace("-", "−")


def _scaled(column: str, values: Values) -> tuple[int, str]:
    """Choose a prefix by which the numbers on an axis become short ones; give its power of ten and the axis' name."""
    name, _, unit = column.partition(" (")
    unit = unit.removesuffix(")")
    largest = float(np.max(np.abs(values)))
    if unit not in _SCALED or not largest > 0:
        return 0, column
    power = max(-15, min(9, 3 * math.floor(math.log10(largest) / 3)))
    if power == 3 and unit == "s":
        power = 0
    return power, f"{name} ({_PREFIXES[power]}{unit})"


def with_unit(value: float, column: str) -> str:
    """Write a value with the name and the unit of its column, in a prefix that makes it short."""
    name, _, unit = column.partition(" (")
    unit = unit.removesuffix(")")
    power = 0
    if unit in _SCALED and math.isfinite(value) and value:
        power = max(-15, min(9, 3 * math.floor(math.log10(abs(value)) / 3)))
    number = f"{value / 10.0**power:.4g}".replace("-", "−")
    return f"{name} {number} {_PREFIXES[power]}{unit}".rstrip()


def _logarithmic(one: Series) -> Series:
    size = np.abs(one.y)
    good = size > 0
    return Series(one.name, one.x[good], np.log10(size[good]))


def _span(values: Values) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low > max(abs(high) * 1e-12, _LEAST_SPAN):
        return low, high
    half = abs(high) * 0.05 if abs(high) * 0.05 > _LEAST_SPAN else 1.0
    return low - half, high + half


def _padded(span: tuple[float, float], part: float) -> tuple[float, float]:
    more = (span[1] - span[0]) * part
    return span[0] - more, span[1] + more


def _points(x: Values, y: Values) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
