"""Headers made for tests, by procedure and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from nanolab_daemon.header import parse_header
from nanolab_daemon.model import Header


def header_of(procedure: str, parameters: Mapping[str, str], start_time: str | None = "1760370548.4") -> Header:
    """Return the header of a file of this procedure."""
    lines = [f"#Procedure: <laser_setup.procedures.{procedure}>", "#Parameters:"]
    lines += [f"#\t{name}: {value}" for name, value in parameters.items()]
    lines += ["#Metadata:", f"#\tStart time: {start_time}"] if start_time else []
    return parse_header(("\n".join([*lines, "#Data:", "a,b"]) + "\n").encode())
