"""What clusters need and this project does not: fetched once, from the registries of Java and Go, into the cache."""

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

# Where the job server of our Beam is not to be had, it is put together from the newest libraries of its own
# that are: a job is a protocol buffer, and those of 2.77 are understood by it.
OLDER_BEAM = "2.62.0"
MAVEN_DEPENDENCY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

# What Flink's and Spark's own scripts say of Java 17
JAVA_OPTIONS = (
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            *(
                "java.lang",
                "java.lang.reflect",
                "java.net",
                "java.io",
                "java.nio",
                "java.text",
                "java.time",
            ),
            *(
                "java.util",
                "java.util.concurrent",
                "java.util.concurrent.atomic",
                "java.util.concurrent.locks",
            ),
            "sun.nio.ch",
        )
    ),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
)


class Missing(Exception):
    """What a cluster needs and this machine or its registries lack."""


def job_server(name: str, main_class: str, artifacts: Sequence[str], exclude: str = "") -> Path:
    """A job server put together from its libraries; fetched once.

    Args:
      name: under which it is kept.
      main_class: that starts it.
      artifacts: GROUP:ARTIFACT:VERSION of what it needs, with all that these need.
      exclude: GROUP:ARTIFACT that they need and it doesn't.
    """

    def fetch(made: Path) -> None:
        (made / "pom.xml").write_text(
            f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>captioner</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>{"".join(_dependency(artifact, exclude) for artifact in artifacts)}</dependencies>
</project>
"""
        )
        command = ["mvn", "--quiet", "--batch-mode", "--file", str(made / "pom.xml")]
        call(
            [
                *command,
                f"{MAVEN_DEPENDENCY}:copy-dependencies",
                "-DincludeScope=runtime",
                "-DoutputDirectory=lib",
            ]
        )
        # java -jar, as Beam starts it, takes the class path from the manifest, beside which the libraries lie
        path = " ".join(f"lib/{jar.name}" for jar in sorted((made / "lib").glob("*.jar")))
        manifest = (
            f"Manifest-Version: 1.0\nMain-Class: {main_class}\n{_folded(f'Class-Path: {path}')}\n\n"
        )
        with zipfile.ZipFile(made / "job-server.jar", "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", manifest)

    return kept(name, fetch) / "job-server.jar"


def _dependency(artifact: str, exclude: str) -> str:
    names = ("groupId", "artifactId", "version")
    said = "".join(
        f"<{name}>{part}</{name}>" for name, part in zip(names, artifact.split(":"), strict=True)
    )
    group, _, name = exclude.partition(":")
    left_out = (
        f"<exclusion><groupId>{group}</groupId><artifactId>{name}</artifactId></exclusion>"
        if exclude
        else ""
    )
    return f"<dependency>{said}<exclusions>{left_out}</exclusions></dependency>"


def _folded(line: str) -> str:
    """A manifest's lines have 72 bytes at most; what follows starts with a space."""
    first, rest = line[:70], line[70:]
    return "\n ".join([first, *(rest[start : start + 69] for start in range(0, len(rest), 69))])


def boot_program() -> Path:
    """Beam's boot program, which is in its containers: fetches a job's packages and starts a worker."""
    beam = apache_beam.__version__

    def fetch(made: Path) -> None:
        # the cache of Go's modules is as it is, the program goes where it is kept
        environment = {**os.environ, "GOBIN": str(made), "GOFLAGS": "-mod=mod"}
        call(
            ["go", "install", f"github.com/apache/beam/sdks/v2/python/container@v{beam}"],
            environment,
        )

    return kept(f"beam-boot-{beam}", fetch) / "container"


def kept(name: str, fetch: Callable[[Path], None]) -> Path:
    """A folder of the cache, made by ``fetch`` where it isn't there, whole or not at all."""
    folder = cache_dir() / "cluster" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            fetch(made)
            made.rename(folder)
    return folder


def call(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a program that fetches; what it says where it fails is a ``Missing``."""
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
    """Makes a Python with the packages of this one, but without captioner, which is installed here from its source."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    # a folder named in a .pth file is looked into, the .pth files in it are not: so an editable install stays away
    (packages / "packages.pth").write_text(f"{Path(apache_beam.__file__).parents[1]}\n")
    return folder / "bin" / "python"


def children(pid: int) -> list[psutil.Process]:
    """A process' own and theirs; none where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []
