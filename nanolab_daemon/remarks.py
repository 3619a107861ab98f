"""What of a file is not understood: one sentence a procedure, a kind and a name, the same for every such file.

Nothing is dropped for it: each of these texts stands in the header record of the staged file. A sentence holds no
value, since thousands of files would otherwise say thousands of things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from nanolab_daemon.header import Quantity, quantity, shortened
from nanolab_daemon.model import Header
from nanolab_daemon.procedures import ParameterType, Procedure

MOST_NAMES = 12
"""So many names of a kind are told one by one; a damaged header may hold thousands."""

_KEPT = "its text is kept in the header record"
_BOOLEANS = ("True", "False")
_NUMBERS = ("float", "int")


def remarks(
    procedure: Procedure | None, header: Header, columns: Iterable[str], *, comments: bool = False
) -> tuple[str, ...]:
    """Tell what of a file the registry does not explain.

    `procedure` is None where the registry lacks it, `columns` are the present names of the file's columns,
    `comments` tells that lines with `#` stand between its rows.
    """
    return tuple(_found(procedure, header, tuple(columns), comments))


def _found(procedure: Procedure | None, header: Header, columns: tuple[str, ...], comments: bool) -> Iterator[str]:
    files = f"{header.procedure} files"
    if procedure is None:
        yield f"The procedure {header.procedure} is not in the registry: its files are staged as they are."
    else:
        yield from _each(
            (name for name in columns if name not in procedure.columns),
            f"{files} have a column {{}} that the registry does not know: it is kept.",
            f"{files} have more columns that the registry does not know: they are kept.",
        )
        yield from _values(files, "parameter", header.parameters, partial(_parameter, procedure))
        yield from _values(files, "metadata entry", header.metadata, procedure.metadata.get)
        yield from _renamed(files, procedure, header)
    yield from _each(
        header.repeated,
        f"{files} have {{}} more than once in their header: the last one counts, all are kept in the header record.",
        f"{files} have more names more than once in their header: the last ones count, all are kept.",
    )
    if header.unread:
        yield f"{files} have lines in their header that are not understood: they are kept in the header record."
    if comments:
        yield f"{files} have lines beginning with # between their rows: they are kept apart, as nanolab.comments."


def _parameter(procedure: Procedure, name: str) -> ParameterType | None:
    present = procedure.renamed.get(name, name)
    # The registry looks for a start time among the parameters too.
    return procedure.parameters.get(present) or procedure.metadata.get(name)


def _renamed(files: str, procedure: Procedure, header: Header) -> Iterator[str]:
    """Tell which parameters a header has under two of their names."""
    if procedure.renamed.keys().isdisjoint(header.parameters):
        return
    for present in dict.fromkeys(procedure.renamed.values()):
        names = [present, *(old for old, new in procedure.renamed.items() if new == present)]
        here = [_quoted(name) for name in names if name in header.parameters]
        if len(here) > 1:
            yield (
                f"{files} have one parameter under the names {' and '.join(here)}: {here[0]} counts,"
                " all are kept in the header record."
            )


def _values(
    files: str, what: str, written: Mapping[str, str], known: Callable[[str], ParameterType | None]
) -> Iterator[str]:
    """Tell which of the values of one section can't be read as what they should be."""
    yield from _each(
        (name for name in written if known(name) is None),
        f"{files} have a {what} {{}} that the registry does not know: {_KEPT}.",
        f"{files} have more of such, which the registry does not know ({what}): all are kept in the header record.",
    )
    for name, text in written.items():
        wanted = known(name)
        problem = _problem(text, wanted) if wanted is not None else ""
        if problem:
            yield f"{files} have a {what} {_quoted(name)} {problem}: {_KEPT}."


def _problem(text: str, wanted: ParameterType) -> str:
    if wanted.kind == "bool":
        return "" if text.strip() in _BOOLEANS else "that is neither True nor False"
    if wanted.kind not in _NUMBERS and not (wanted.kind == "choice" and wanted.unit):
        return ""
    read = quantity(text)
    if read.value is None:
        return "that is no number"
    if wanted.kind == "int" and not read.value.is_integer():
        return "that is no whole number"
    return _wrong_unit(read, wanted)


def _wrong_unit(read: Quantity, wanted: ParameterType) -> str:
    if wanted.factor(read.unit) is not None:
        return ""
    expected = f"{wanted.unit} is expected" if wanted.unit else "no unit is expected"
    return f"with the unit {_quoted(read.unit or '')}, where {expected}"


def _each(names: Iterable[str], sentence: str, rest: str) -> Iterator[str]:
    for number, name in enumerate(names):
        if number == MOST_NAMES:
            yield rest
            return
        yield sentence.format(_quoted(name))


def _quoted(name: str) -> str:
    return repr(shortened(name))
