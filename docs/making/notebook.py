"""Executes the notebook over a lab's data, and makes a page of what was typed and what came of it."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

LIMIT_S = 120


def publish(notebook: Path, lab: Path, pages: Path) -> None:
    """Execute a notebook in the folder of a lab; put it beside the pages, as it is then, and as a page.

    nbclient.exceptions.CellExecutionError where a cell fails.
    """
    import nbformat

    executed = execute(notebook, lab)
    nbformat.write(executed, pages / notebook.name)
    text = "\n\n".join(_parts(executed, pages, notebook.stem))
    (pages / f"{notebook.stem}.md").write_text(text + "\n", encoding="utf-8")


def execute(notebook: Path, folder: Path) -> Any:
    """Run all cells from the top, in this very environment, and give the notebook with their outputs."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as home:  # what Jupyter keeps, and its sockets; no network
        own = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"), home)
        with patch.dict(os.environ, own | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}):
            local = Config(KernelManager={"transport": "ipc", "ip": f"{home}/kernel"})
            resources = {"metadata": {"path": str(folder)}}
            client = NotebookClient(cells, config=local, kernel_name="python3", timeout=LIMIT_S, resources=resources)
            return client.execute()


def _parts(notebook: Any, pages: Path, name: str) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        yield f"```python\n{cell.source}\n```"
        for at, output in enumerate(cell.outputs):
            yield from _shown(output, pages, f"{name}-{number}-{at}")


def _shown(output: Any, pages: Path, name: str) -> Iterator[str]:
    if output.output_type == "stream":
        yield _block(output.text)
        return
    data = output.get("data", {})
    if "image/png" in data:
        (pages / f"{name}.png").write_bytes(base64.b64decode(data["image/png"]))
        yield f'<div class="output" markdown>\n\n![{_caption(output)}]({name}.png)\n\n</div>'
    elif "text/html" in data:
        yield f'<div class="output">\n{_plain_table("".join(data["text/html"]))}\n</div>'
    elif "text/plain" in data:
        yield _block("".join(data["text/plain"]))


def _block(text: str) -> str:
    return f'<div class="output" markdown>\n\n```text\n{text.rstrip()}\n```\n\n</div>'


def _plain_table(html: str) -> str:
    """Leave the looks of a frame's table to the site."""
    bare = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    bare = re.sub(r"<table[^>]*>", "<table>", bare)
    return "\n".join(line for line in bare.splitlines() if line.strip())


def _caption(output: Any) -> str:
    return str(output.get("metadata", {}).get("caption", "A plot made by the cell above"))
