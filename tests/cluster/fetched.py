"""Programs that only the cluster tests need, such as Beam's job servers.

They are fetched once from the registries of Java and Go, and kept in the cache folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam
import psutil

from captioner_core.process.cache_folder import cache_dir

# The registry may lack the job server of the installed Beam. Then one is assembled from the newest
# libraries that it has. A job is a protocol buffer, and this release understands those of Beam
# 2.77.
OLDER_BEAM = "2.62.0"
MAVEN_DEPENDENCY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

# The options that Flink's and Spark's own scripts pass to Java 17.
JAVA_OPTIONS = (
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.text=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
)


class Missing(Exception):
    """Error that says what a cluster needs and neither this machine nor a registry has."""


def job_server(name: str, main_class: str, artifacts: Sequence[str], exclude: str = "") -> Path:
    """Returns a job server assembled from its libraries, which are fetched once.

    Args:
      name: The folder in the cache that contains the job server.
      main_class: The Java class that starts it.
      artifacts: The libraries as GROUP:ARTIFACT:VERSION; Maven adds their dependencies.
      exclude: A dependency as GROUP:ARTIFACT that is left out.
    """

    def fetch(folder: Path) -> None:
        (folder / "pom.xml").write_text(
            f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>captioner</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>{"".join(_dependency(artifact, exclude) for artifact in artifacts)}</dependencies>
</project>
"""
        )
        command = ["mvn", "--quiet", "--batch-mode", "--file", str(folder / "pom.xml")]
        call(
            [
                *command,
                f"{MAVEN_DEPENDENCY}:copy-dependencies",
                "-DincludeScope=runtime",
                "-DoutputDirectory=lib",
            ]
        )
        # Beam runs the job server with java -jar, which reads the class path from the manifest.
        class_path = " ".join(f"lib/{jar.name}" for jar in sorted((folder / "lib").glob("*.jar")))
        manifest = f"Manifest-Version: 1.0\nMain-Class: {main_class}\n"
        manifest += f"{_folded(f'Class-Path: {class_path}')}\n\n"
        with zipfile.ZipFile(folder / "job-server.jar", "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", manifest)

    return cached_folder(name, fetch) / "job-server.jar"


def _dependency(artifact: str, exclude: str) -> str:
    """Returns the XML element of a Maven dependency."""
    names = ("groupId", "artifactId", "version")
    coordinates = "".join(
        f"<{name}>{part}</{name}>" for name, part in zip(names, artifact.split(":"), strict=True)
    )
    group, _, name = exclude.partition(":")
    exclusion = (
        f"<exclusion><groupId>{group}</groupId><artifactId>{name}</artifactId></exclusion>"
        if exclude
        else ""
    )
    return f"<dependency>{coordinates}<exclusions>{exclusion}</exclusions></dependency>"


def _folded(line: str) -> str:
    """Returns a manifest line broken into lines of at most 72 bytes.

    A continuation starts with a space.
    """
    rest = line[70:]
    continuations = [rest[start : start + 69] for start in range(0, len(rest), 69)]
    return "\n ".join([line[:70], *continuations])


def boot_program() -> Path:
    """Returns the boot program of Beam's containers, which is fetched once.

    It installs the packages of a job and starts a worker.
    """
    beam = apache_beam.__version__

    def fetch(folder: Path) -> None:
        environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-mod=mod"}
        call(
            ["go", "install", f"github.com/apache/beam/sdks/v2/python/container@v{beam}"],
            environment,
        )

    return cached_folder(f"beam-boot-{beam}", fetch) / "container"


def cached_folder(name: str, fetch: Callable[[Path], None]) -> Path:
    """Returns a folder of the cache.

    Args:
      name: The name of the folder.
      fetch: Fills a new folder. The cache receives that folder only if ``fetch`` succeeds.
    """
    folder = cache_dir() / "cluster" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            new_folder = Path(scratch) / "new"
            new_folder.mkdir()
            fetch(new_folder)
            new_folder.rename(folder)
    return folder


def call(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a program that fetches files.

    Raises:
      Missing: If the program is not installed or fails; the message has its first line of output.
    """
    if not shutil.which(command[0]):
        raise Missing(
            f"{command[0]} is not installed; test-cluster needs Java 11 or 17, Maven and Go"
        )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Missing(
            f"{' '.join(command[:4])} ... failed: {lines[0] if lines else done.returncode}"
        )


def worker_python(folder: Path) -> Path:
    """Makes a Python environment with this one's packages, except captioner.

    A worker must import captioner from the package that comes with the job.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    # Python adds a folder that a .pth file names, but ignores the .pth files in it. So the editable
    # installation of captioner, which is a .pth file, has no effect.
    (packages / "packages.pth").write_text(f"{Path(apache_beam.__file__).parents[1]}\n")
    return folder / "bin" / "python"


def children(pid: int) -> list[psutil.Process]:
    """Returns all descendants of a process; an empty list if the process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []
