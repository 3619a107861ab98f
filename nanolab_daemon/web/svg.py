"""Drawings: small curves and the plot of a run, as numbers for the templates. Colours are the style sheet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanolab_daemon.web.curves import Axes, Series, Values, finite

THUMB = (160, 56)
PLOT = (880, 460)
MARGIN = (92, 22, 20, 66)  # left, right, top, bottom
_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
_LEAST_SPAN = 1e-290  # below it, differences have no digits left to divide by
_LARGE = 1e300  # beyond it, a difference or a margin may be beyond all numbers: such values are divided first
_LESS = 1e10
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
    x, y = finite(x, y)
    if not len(x):
        return ""
    width, height = THUMB
    x, y = x / _divisor(x), y / _divisor(y)
    left, right = _span(x)
    low, high = _span(y)
    px = 3 + (x - left) / (right - left) * (width - 6)
    py = height - 3 - (y - low) / (high - low) * (height - 6)
    return _points(px, py)


def plot(axes: Axes, whole: Series, segments: Sequence[Series], *, log: bool) -> Plot | None:
    """Lay out a run's plot; `log`: the size of y on a logarithmic scale. None where there is nothing to draw."""
    drawn = [Series(one.name, *finite(one.x, one.y)) for one in (whole, *segments)]
    if log:
        drawn = [_logarithmic(one) for one in drawn]
    if not len(drawn[0].x):
        return None
    width, height = PLOT
    frame = (float(MARGIN[0]), float(MARGIN[2]), float(width - MARGIN[1]), float(height - MARGIN[3]))
    x_power, x_label = _scaled(axes.x, drawn[0].x)
    y_power, y_label = (0, f"log₁₀ |{axes.y}|") if log else _scaled(axes.y, drawn[0].y)
    every_x, every_y = (np.concatenate(values) for values in ([one.x for one in drawn], [one.y for one in drawn]))
    x_less, y_less = _divisor(every_x), _divisor(every_y)
    left, right = _padded(_span(every_x / x_less), 0.02)
    low, high = _padded(_span(every_y / y_less), 0.05)

    def place_x(value: float) -> float:
        return frame[0] + (value - left) / (right - left) * (frame[2] - frame[0])

    def place_y(value: float) -> float:
        return frame[3] - (value - low) / (high - low) * (frame[3] - frame[1])

    lines = []
    names = _told_apart([one.name for one in drawn])
    for number, one in enumerate(drawn):
        px = frame[0] + (one.x / x_less - left) / (right - left) * (frame[2] - frame[0])
        py = frame[3] - (one.y / y_less - low) / (high - low) * (frame[3] - frame[1])
        style = "whole" if number == 0 else style_of(one.name, number - 1)
        lines.append(Line(names[number], style, _points(px, py), len(one.x) == 1, len(one.x)))
    return Plot(
        width=width,
        height=height,
        frame=frame,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(Tick(place_x(at), _label(at, x_power, x_less)) for at in ticks(left, right, 8)),
        y_ticks=tuple(Tick(place_y(at), _label(at, y_power, y_less)) for at in ticks(low, high, 6)),
        zero_x=place_x(0.0) if left < 0.0 < right else None,
        zero_y=place_y(0.0) if low < 0.0 < high and not log else None,
        lines=tuple(lines),
        x_unit=axes.x,
        y_unit=axes.y,
    )


def _told_apart(names: Sequence[str]) -> list[str]:
    """Give names that come again a number: a gate sweep goes to the negative side twice."""
    counted = [(name, names[:at].count(name) + 1) for at, name in enumerate(names)]
    return [f"{name} {number}" if names.count(name) > 1 else name for name, number in counted]


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


def _label(value: float, power: int, less: float) -> str:
    number = value / 10.0**power * less
    if not math.isfinite(number):  # the margin goes beyond the largest number: its tick has none
        return ""
    text, shorter = f"{number:.10g}", f"{number:.6g}"
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


def _divisor(values: Values) -> float:
    """Give what to divide values by before they are subtracted, so that no difference overflows."""
    return _LESS if float(np.max(np.abs(values))) > _LARGE else 1.0


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
