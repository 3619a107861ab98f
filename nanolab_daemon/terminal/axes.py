"""The axes of a drawing in characters: which part of the numbers it shows, in which unit, and where the marks stand.

Pure arithmetic. A scale that is logarithmic is drawn along the powers of ten of its values.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanolab_daemon.terminal.trace import Values

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
_SCALED = ("A", "V", "W", "Ohm")
_DUST = 1e-9
"""What is smaller than the largest value by so much is shown as zero: set points carry float dust."""

_LEAST_SPAN = 1e-12
"""Of the largest value: what spans less has no extent that its digits could show."""

_HAIR = 1e-6
_LEAST = 1e-290
"""Below, numbers have no digits left to be divided by."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How the numbers of an axis are written: divided by 10 to the `power`, in `unit`."""

    name: str
    power: int
    unit: str
    largest: float = 0.0

    def write(self, value: float) -> str:
        """Write a value with four digits."""
        if abs(value) <= self.largest * _DUST:
            return "0"
        return f"{value / 10.0**self.power:.4g}"

    @property
    def in_unit(self) -> str:
        """The unit in brackets behind a blank, nothing where there is none."""
        return f" ({self.unit})" if self.unit else ""


@dataclass(frozen=True, slots=True)
class Axis:
    """The part of a scale that is drawn, and its marks as pairs of a place on it and a label."""

    title: str
    low: float
    high: float
    marks: tuple[tuple[float, str], ...]

    def cell(self, value: float, cells: int) -> int:
        """Tell in which of so many cells a value is, counted from the low end."""
        return max(0, min(cells - 1, int((value - self.low) / (self.high - self.low) * cells)))


def scale(column: str, values: Values) -> Scale:
    """Choose a prefix for the unit of a column such as `I (A)`, so that its numbers are short.

    What has no prefixed unit is divided by a power of ten where its numbers would be very long.
    """
    found = re.fullmatch(r"(.*\S)\s*\(([^()]*)\)", column)
    name, unit = (found[1], found[2]) if found else (column, "")
    largest = float(np.max(np.abs(values))) if len(values) else 0.0
    if largest < _LEAST:
        return Scale(name, 0, unit)
    thousands = 3 * math.floor(math.log10(largest) / 3 + 1e-9)
    if unit in _SCALED and thousands in _PREFIXES:
        return Scale(name, thousands, f"{_PREFIXES[thousands]}{unit}", largest)
    if -3 <= thousands <= 3:
        return Scale(name, 0, unit, largest)
    return Scale(name, thousands, f"10^{thousands} {unit}".rstrip(), largest)


def linear(of: Scale, values: Values, about: int) -> Axis:
    """Lay out an axis for values that are divided as their scale says, with about so many marks, but two at least."""
    low, high = _extent(float(values.min()), float(values.max()))
    marks: tuple[tuple[float, str], ...] = ()
    for more in range(4):
        step = _step(high - low, about + more)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        marks = tuple((number * step, f"{number * step:.10g}") for number in range(first, last + 1))
        if len(marks) > 1:
            break
    return Axis(f"{of.name}{of.in_unit}", low, high, marks)


def logarithmic(of: Scale, powers: Values, about: int) -> Axis:
    """Lay out an axis for the powers of ten of values, marked at whole powers, or between them if they are few."""
    low, high = _extent(float(powers.min()), float(powers.max()))
    every = max(1, math.ceil((high - low) / max(1, about)))
    whole = range(math.ceil(low), math.floor(high) + 1)
    marks = [(float(power), f"10^{power}") for power in whole if power % every == 0]
    if len(marks) < 2:
        digits = ((power, digit) for power in range(math.floor(low), math.ceil(high)) for digit in (1, 2, 5))
        places = ((power + math.log10(digit), f"{digit}e{power}") for power, digit in digits)
        marks = [(place, label) for place, label in places if low <= place <= high]
    return Axis(f"|{of.name}|{of.in_unit}, logarithmic", low, high, tuple(marks))


def _extent(low: float, high: float) -> tuple[float, float]:
    """Give room to what has no extent of its own: one point, or the same value everywhere.

    What has one ends a hair above its highest value, which so lies in the last cell and not behind it.
    """
    largest = max(abs(low), abs(high))
    if high - low > max(largest * _LEAST_SPAN, _LEAST):
        return low, high + (high - low) * _HAIR
    room = max(largest * 0.05, _LEAST * 10) if largest > _LEAST else 1.0
    return max(low - room, -sys.float_info.max), min(high + room, sys.float_info.max)


def _step(span: float, about: int) -> float:
    """Choose a round step, so that about so many fit into a span."""
    raw = span / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)


def row_labels(axis: Axis, rows: int) -> list[str]:
    """Give the label of each row of a drawing, from the top; most are empty, none is wider than need be."""
    labels = [""] * rows
    for place, label in axis.marks:
        labels[rows - 1 - axis.cell(place, rows)] = label
    return labels


def column_labels(axis: Axis, columns: int) -> tuple[str, Sequence[int]]:
    """Write the labels beneath a drawing, each centred below its place; give the columns of those that have room."""
    line, marked = "", []
    for place, label in axis.marks:
        column = axis.cell(place, columns)
        start = max(0, min(column - len(label) // 2, columns - len(label)))
        if line and start < len(line) + 2:
            continue
        line = line.ljust(start) + label
        marked.append(column)
    return line, marked
