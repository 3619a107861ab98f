"""The set points of the instrument program, written down once more: numpy's arange and nothing of the project's own.

`start`, `end` and `step` are those of the header, in its unit; each function gives one sweep, shape (rows,).
"""

from __future__ import annotations

import itertools

import numpy as np


def up_down(start: float, end: float, step: float) -> np.ndarray:
    return np.concatenate((np.arange(start, end, step), np.arange(end, start - step, -step)))


def there_and_back(start: float, end: float, step: float) -> np.ndarray:
    sign = 1 if start > 0 else -1
    out = np.arange(0, start, sign * step)
    return np.concatenate((out, up_down(start, end, step), np.flip(out)))


def two_steps(start: float, end: float, step: float) -> np.ndarray:
    large = 5e-4 if 1e-6 <= step <= 5e-4 else step
    sign = 1 if start > 0 else -1
    near, far = sign * min(abs(start), 5e-4), -sign * min(abs(end), 5e-4)
    corners = [(0, near, step, 1), (near, start, large, 1), (start, near, large, -1), (near, far, step, -1)]
    corners += [(far, end, large, -1), (end, far, large, 1), (far, sign * step, step, 1)]
    return np.concatenate([np.arange(a, b, sign * way * size) for a, b, size, way in corners])


def zero_start_end_zero(start: float, end: float, step: float) -> np.ndarray:
    out, way, home = (1 if start >= 0 else -1), (1 if start < end else -1), (-1 if end >= 0 else 1)
    return np.concatenate(
        (
            np.arange(0, start + out * step, out * step),
            np.arange(start, end + way * step, way * step)[1:],
            np.arange(end, 0 + home * step, home * step)[1:],
        )
    )


def start_end(start: float, end: float, step: float) -> np.ndarray:
    return np.arange(start, end + step, step)


def leg(a: float, b: float, step: float) -> np.ndarray:
    if np.isclose(a, b, atol=1e-12):
        return np.array([b])
    whole = a + np.arange(int(np.floor(abs(b - a) / step + 1e-12)) + 1) * (np.sign(b - a) * step)
    return np.append(whole, b) if abs(whole[-1] - b) > 1e-12 else np.append(whole[:-1], b)


def joined(legs: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate([legs[0], *(leg[1:] for leg in legs[1:])])
    return joined[np.append(True, np.abs(np.diff(joined)) > 1e-12)]


def there_and_back_met(start: float, end: float, step: float) -> np.ndarray:
    corners = [0.0, start, end, start, 0.0] if abs(start) > 1e-12 else [0.0, end, 0.0]
    return joined([leg(a, b, step) for a, b in itertools.pairwise(corners)])


def two_steps_met(start: float, end: float, step: float) -> np.ndarray:
    large = 5e-4 if 1e-6 <= step <= 5e-4 else step
    legs = []
    for a, b in ((0.0, start), (start, end), (end, 0.0)):
        if np.isclose(a, b, atol=1e-12):
            legs.append(np.array([b]))
            continue
        corners = sorted({a, b} | {edge for edge in (-5e-4, 5e-4) if min(a, b) < edge < max(a, b)}, reverse=a > b)
        inside = [max(abs(c), abs(d)) <= 5e-4 + 1e-12 for c, d in itertools.pairwise(corners)]
        pieces = zip(itertools.pairwise(corners), inside, strict=True)
        legs.append(joined([leg(c, d, step if fine else large) for (c, d), fine in pieces]))
    return joined(legs)
