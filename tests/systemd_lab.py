"""A laboratory's service on a machine of the rig: installed as a person would, fed with files, asked how it fares."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import instrument
from systemd_rig import Done, Machine

RAW = "/srv/lab/raw"
DATA = "/var/lib/nanolab-daemon"


class Service:
    """The service of one laboratory."""

    def __init__(self, machine: Machine, command: Path, *, name: str = "", raw: str = RAW) -> None:
        self.machine = machine
        self.command = str(command)
        self.name = name
        self.raw = raw
        self.unit = f"nanolab-daemon@{name}.service" if name else "nanolab-daemon.service"
        self.config = f"/etc/nanolab-daemon/{name}/config.toml" if name else "/etc/nanolab-daemon/config.toml"
        self.data = f"{DATA}/{name}" if name else DATA

    def install(self, *words: str, check: bool = True) -> Done:
        """Run `service install`; the raw folder is made before it."""
        name = ("--name", self.name) if self.name else ()
        return self.machine.run(self.command, "service", "install", *name, *words, check=check, limit_s=120)

    def begin(self, *words: str) -> None:
        """Make the raw folder, install, start."""
        self.machine.run("mkdir", "-p", self.raw)
        self.install("--raw-root", self.raw, "--now", *words)

    def drop_in(self, text: str, name: str = "test") -> None:
        """Put changes beside the unit, for its next start."""
        self.machine.put(f"/etc/systemd/system/{self.unit}.d/{name}.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def measure(self, files: Iterable[int], folder: str = "") -> None:
        """Let files appear in the raw folder, an IV sweep each with four segments."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for seed in files:
                data = instrument.iv(seed, start=1757018821.0 + 100 * seed).data()
                info = tarfile.TarInfo(f"IV_{seed}.csv")
                info.size, info.mode, info.mtime = len(data), 0o644, 1757018821
                archive.addfile(info, io.BytesIO(data))
        self.machine.put("/run/files.tar", packed.getvalue())
        where = f"{self.raw}/{folder}"
        self.machine.sh(f'mkdir -p "{where}"; tar -xf /run/files.tar -C "{where}"')

    def show(self, name: str) -> str:
        return self.machine.show(self.unit, name)

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def workers(self) -> set[int]:
        found = self.machine.run("pgrep", "-P", str(self.pid), "-f", "spawn_main", check=False).out
        return {int(word) for word in found.split()}

    def status(self) -> dict[str, Any]:
        """Ask the daemon."""
        said: dict[str, Any] = json.loads(
            self.machine.run(self.command, "status", "--json", "--config", self.config).out
        )
        return said

    def published(self) -> tuple[int, int]:
        """Count the runs and the segments on the disk."""
        script = f'find "{self.data}/{{}}" -name part-000.parquet | wc -l'
        runs, segments = (int(self.machine.sh(script.format(root))) for root in ("stage", "output"))
        return runs, segments

    def journal(self, *matches: str) -> list[Mapping[str, Any]]:
        """Give the unit's records, or those with some fields."""
        self.machine.run("journalctl", "--sync")
        words = ["--no-pager", "--output=json", "--all", *(matches or (f"--unit={self.unit}",))]
        return [json.loads(line) for line in self.machine.run("journalctl", *words).out.splitlines()]

    def said(self) -> str:
        """Give all that the unit said."""
        return "\n".join(str(record["MESSAGE"]) for record in self.journal())

    def until_published(self, runs: int, limit_s: float = 60.0) -> None:
        every_s = max(0.05, runs / 5000)  # counting many costs a while itself
        self.machine.until(lambda: self.published() == (runs, 4 * runs), limit_s, f"for {runs} runs", every_s)

    def until_active(self, other_than: int = 0, limit_s: float = 30.0) -> None:
        def is_back() -> bool:
            return self.show("ActiveState") == "active" and self.pid not in (0, other_than)

        self.machine.until(is_back, limit_s, "for the service to be back")
