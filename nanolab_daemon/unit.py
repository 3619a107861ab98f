"""The texts of the service: from the files in `systemd/` and one laboratory's names, folders and neighbours.

Looks at no disk but to read those files; writes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon import config
from nanolab_daemon.sections import Paths

PROGRAM = "nanolab-daemon"
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
NOBODYS = (Path("/boot"), Path("/media"), Path("/mnt"), Path("/opt"), Path("/srv"))
"""Where other people's data are; hidden unless something that is needed lies there."""

_NO_NETWORK = """# No network at all: no worker of a cluster is wanted (pools.engine).
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any"""
_SCHEDULER_ALONE = """# The scheduler of the cluster is on the network (pools.engine), at any address.
PrivateNetwork=no
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"""

_PATHS_NOTE = (
    "# The service reaches no others: after a change here, `nanolab-daemon service install` has to be run again."
)


@dataclass(frozen=True, slots=True)
class Lab:
    """One laboratory on this machine. The first has no name."""

    name: str = ""

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"{PROGRAM}@{self.name}.service" if self.name else f"{PROGRAM}.service"

    @property
    def stem(self) -> str:
        """The name under which its other files are found."""
        return f"{PROGRAM}-{self.name}" if self.name else PROGRAM

    @property
    def socket(self) -> str:
        """The name of the unit of its web page's socket."""
        return f"{self.stem}.socket"

    @property
    def notices(self) -> str:
        """The name of the unit that tells people."""
        return f"{self.stem}-notify.service"

    @property
    def user(self) -> str:
        """The user as whom it runs unless another is chosen."""
        return f"nanolab-{self.name}" if self.name else "nanolab"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return Path("/etc", PROGRAM, self.name, "config.toml")

    @property
    def data(self) -> Path:
        """Where its folders are unless others are chosen."""
        return Path("/var/lib", PROGRAM, self.name)


@dataclass(frozen=True, slots=True)
class Service:
    """All that the texts need to know. `program`: the folders of the installation, those of the system left out."""

    lab: Lab
    user: str
    group: str
    paths: Paths
    command: Sequence[str]
    program: Sequence[Path]
    raw_mount: str = ""  # the mount unit of the raw folder, where it is on a file system of its own
    other_mounts: Sequence[str] = ()
    scheduler: str = ""  # of the cluster that does the work; empty: this machine does it
    address: str = ""  # on which the web page listens, as systemd writes it; empty: there is no page

    @property
    def writable(self) -> tuple[Path, ...]:
        """The folders that it writes."""
        return (self.paths.stage, self.paths.output, self.paths.state)

    def unit(self) -> str:
        """Give the unit."""
        mount = f"Wants={self.raw_mount}\nAfter={self.raw_mount}" if self.raw_mount else "# It is on the root disk."
        return filled(
            f"{PROGRAM}.service",
            {
                **self._words([self.paths.raw, *self.writable]),
                "SOCKET": f"Sockets={self.lab.socket}" if self.address else "# No web page is wanted (http.enabled).",
                "NETWORK": _SCHEDULER_ALONE if self.scheduler else _NO_NETWORK,
                "WRITABLE": _listed(self.writable),
                "RAW_MOUNT": mount,
                "WANTED_BY": " ".join(["multi-user.target", *self.other_mounts]),
            },
        )

    def notices(self, addresses: Path) -> str:
        """Give the unit that tells people; `addresses` is the file of whom."""
        state = self.paths.state
        data = [one for one in (self.paths.raw, self.paths.stage, self.paths.output) if not state.is_relative_to(one)]
        words = self._words([state, addresses], data)
        return filled(f"{PROGRAM}-notify.service", {**words, "STATE": quoted(state)})

    def _words(self, needed: Sequence[Path], forbidden: Iterable[Path] = ()) -> dict[str, str]:
        """Give what all units say: by whom, what is run, and what of the machine is seen."""
        at_home = [folder for folder in self.program if _is_below(folder, HOMES)]
        if any(_is_below(folder, HOMES) for folder in needed):
            protect, bind = "read-only", "# The laboratory's folders are in a home folder, which is therefore seen."
        elif at_home:
            protect = "tmpfs"
            bind = "BindReadOnlyPaths=" + " ".join(quoted(folder, colons=True) for folder in at_home)
        else:
            protect, bind = "yes", "# Neither the program nor the laboratory's folders are in a home folder."
        hidden = [one for one in NOBODYS if not any(_is_below(n, [one]) for n in (*needed, *self.program))]
        return {
            "UNIT": self.lab.unit,
            "TITLE": f" ({self.lab.name})" if self.lab.name else "",
            "COMMAND": " ".join(quoted(word).replace("$", "$$") for word in self.command),
            "CONFIG": quoted(self.lab.config),
            "USER": self.user,
            "GROUP": self.group,
            "HIDDEN": _listed([*hidden, *forbidden], "-"),
            "PROTECT_HOME": protect,
            "PROGRAM_IN_HOME": bind,
        }

    def socket(self) -> str:
        """Give the unit of the web page's socket."""
        title = f" ({self.lab.name})" if self.lab.name else ""
        words = {"UNIT": self.lab.unit, "TITLE": title, "ADDRESS": self.address}
        return filled(f"{PROGRAM}.socket", words)

    def sysusers(self) -> str:
        """Give the file that makes the user."""
        return filled("sysusers.conf", {"USER": self.user})

    def tmpfiles(self) -> str:
        """Give the file that makes the folders."""
        stage, output, state = (quoted(folder) for folder in self.writable)
        words = {"STAGE": stage, "OUTPUT": output, "STATE": state, "USER": self.user, "GROUP": self.group}
        return filled("tmpfiles.conf", words)


def neighbours(hidden: Iterable[Path]) -> str:
    """Give the drop-in that hides other laboratories' folders from one."""
    lines = [
        "# Other laboratories on this machine; kept by `nanolab-daemon service install` and `uninstall`.",
        "[Service]",
        *(f"InaccessiblePaths=-{quoted(path)}" for path in hidden),
    ]
    return "\n".join(lines) + "\n"


def settings(values: Mapping[str, str | int]) -> str:
    """Give the commented defaults with some values (by `section.key`) in their places."""
    section = ""
    lines = []
    for line in config.default_text().splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        key, equals, rest = line.partition(" = ")
        full = f"{section}.{key}"
        if equals and full in values:
            _, hash_, comment = rest.rpartition("  #")
            value = json.dumps(values[full], ensure_ascii=False)
            lines.append(f"{key} = {value}" + (f"  # {comment.strip()}" if hash_ else ""))
        else:
            lines.append(line)
        if line == "[paths]":
            lines.append(_PATHS_NOTE)
    return "\n".join(lines) + "\n"


def filled(name: str, words: Mapping[str, str]) -> str:
    """Give a file of `systemd/`, from the installed package or the source tree, with its @WORDS@ filled in."""
    packaged = Path(__file__).with_name("systemd")
    source = Path(__file__).parent.with_name("systemd")
    text = ((packaged if packaged.is_dir() else source) / name).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: words[match[1]], text)


def quoted(word: str | Path, *, colons: bool = False) -> str:
    """Write a word so that systemd takes it for one, whatever it holds but control characters.

    `colons`: in a setting where they divide a path from another one.
    """
    text = str(word).replace("%", "%%").replace("\\", "\\\\")
    if colons:
        text = text.replace(":", "\\:")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\\-]+", text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _listed(paths: Iterable[Path], mark: str = "") -> str:
    return " ".join(quoted(f"{mark}{path}") for path in paths)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
