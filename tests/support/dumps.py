"""PostgreSQL's own tools, as an operator runs them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

from storage.binaries import find
from tests.support.absence import not_run


async def run_tool(tool: str, *arguments: str | Path) -> None:
    """`pg_dump`, `pg_restore` and the like; it must succeed."""
    done = await asyncio.to_thread(subprocess.run, [_tool(tool), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _tool(name: str) -> Path:
    """Beside the server's own where they were packed together."""
    beside = find().bin / name
    found = beside if beside.exists() else shutil.which(name)
    return Path(found) if found else not_run("postgresql", f"there is no {name} here")
