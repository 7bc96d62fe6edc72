"""`make` finds a Python that works, creates an environment with it, and says in one line why it can't."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CHOOSE = ROOT / "tools" / "choose_python.sh"
INSTALL = ROOT / "tools" / "install.sh"

# A stand-in for an interpreter. It runs programs with the real one, to which it gives another
# version. It creates environments that consist of itself, and its pip only logs how it was called.
FAKE_PYTHON = """#!/bin/sh
case "$2 $3" in
  "-m venv")
    rm -rf "$5"
    mkdir -p "$5/bin"
    cp "$0" "$5/bin/python"
    echo "command = $0 -m venv --clear $PWD/$5" > "$5/pyvenv.cfg"
    ;;
  "-m pip")
    echo "$@" >> "$(dirname "$0")/../pip.log"
    exit {pip_exit_code}
    ;;
  "-c import pip") ;;
  *)
    exec {python} -I -c 'import sys
sys.version_info = ({version}, 0, "final", 0)
sys._base_executable = sys.argv[1]
{changes}
exec(sys.argv[2])' "$0" "$3"
    ;;
esac
"""
NO_GIL = 'import sysconfig; sysconfig.get_config_var = {"Py_GIL_DISABLED": 1}.get'
WITHOUT_ENSUREPIP = 'sys.modules["ensurepip"] = None'
WITHOUT_VENV = 'sys.modules["venv"] = None'
OTHER_IMPLEMENTATION = 'sys.implementation.name = "pypy"'

BROKEN_SHIM = """#!/bin/sh
echo "pyenv: $(basename "$0"): command not found" >&2
exit 127
"""


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path: Path, version: str, changes: str = "", pip_exit_code: int = 0) -> Path:
    text = FAKE_PYTHON.format(
        python=sys.executable,
        version=version.replace(".", ", "),
        changes=changes,
        pip_exit_code=pip_exit_code,
    )
    return write_program(path, text)


def tools_path(folder: Path) -> str:
    """Returns a folder for PATH that holds the tools of a C library and make, but no Python."""
    folder.mkdir()
    names = "sh basename cat cp dirname echo env find make mkdir rm sed test touch awk"
    for name in names.split():
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


def choose(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path}
    return subprocess.run(
        ["/bin/sh", str(CHOOSE), *arguments], env=environment, capture_output=True, text=True
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture
def tools(tmp_path):
    return tools_path(tmp_path / "tools")


@pytest.fixture
def bin_folder(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", ["python{}", "python3", "python"])
def test_the_only_python_is_taken_whatever_its_name(tools, bin_folder, version, name):
    python = fake_python(bin_folder / name.format(version), version)
    done = choose(f"{bin_folder}:{tools}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{python}\n", "")


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "3.13"}, "python3.13"),
        ({"python3.11": "3.11", "python3.12": "3.12"}, "python3.12"),
        ({"python3.11": "3.11", "python3": "3.13"}, "python3"),
        ({"python3.12": "3.12", "python3": "3.14", "python": "2.7"}, "python3.12"),
        ({"python3": "3.10", "python": "3.11"}, "python"),
    ],
)
def test_the_newest_supported_version_is_taken(tools, bin_folder, installed, chosen):
    for name, version in installed.items():
        fake_python(bin_folder / name, version)
    assert choose(f"{bin_folder}:{tools}").stdout == f"{bin_folder / chosen}\n"


def test_a_shim_that_fails_is_passed_over(tools, tmp_path, bin_folder):
    for name in ("python3.13", "python3.12", "python3"):
        write_program(tmp_path / "shims" / name, BROKEN_SHIM)
    python = fake_python(bin_folder / "python3.12", "3.12")
    done = choose(f"{tmp_path / 'shims'}:{bin_folder}:{tools}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{python}\n", "")


@pytest.mark.parametrize(
    "changes",
    [NO_GIL, WITHOUT_ENSUREPIP, WITHOUT_VENV, OTHER_IMPLEMENTATION],
    ids=["without the GIL", "without ensurepip", "without venv", "another implementation"],
)
def test_a_newer_python_that_does_not_do_is_passed_over(tools, bin_folder, changes):
    fake_python(bin_folder / "python3.13", "3.13", changes)
    python = fake_python(bin_folder / "python3.11", "3.11")
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_what_is_no_program_is_passed_over(tools, bin_folder):
    (bin_folder / "python3.13").mkdir()
    (bin_folder / "python3.12").write_text("not executable")
    (bin_folder / "python3.11").symlink_to("gone")
    python = fake_python(bin_folder / "python3", "3.11")
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_folders_with_spaces_and_empty_entries_of_the_path(tools, tmp_path):
    python = fake_python(tmp_path / "my tools" / "python3.12", "3.12")
    assert choose(f":{python.parent}::{tools}").stdout == f"{python}\n"


def test_a_wrapper_that_prints_something_first(tools, bin_folder):
    python = fake_python(bin_folder / "real" / "python3.12", "3.12")
    write_program(bin_folder / "python3", f'#!/bin/sh\necho "Loading"\nexec {python} "$@"\n')
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_no_python_at_all(tools):
    assert_refused(choose(tools), "3.11, 3.12 or 3.13", "install one", "PYTHON=")


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        ("3.14", "", "is Python 3.14"),
        ("3.10", "", "is Python 3.10"),
        ("3.13", NO_GIL, "is a free-threaded build"),
        ("3.12", WITHOUT_ENSUREPIP, "lacks its module ensurepip"),
        ("3.12", WITHOUT_VENV, "lacks its module venv"),
        ("3.11", OTHER_IMPLEMENTATION, "is pypy"),
    ],
)
def test_the_one_python_that_is_there_does_not_do(tools, bin_folder, version, changes, said):
    python = fake_python(bin_folder / "python3", version, changes)
    assert_refused(choose(f"{bin_folder}:{tools}"), f"python3 {said}", "install one")
    assert_refused(choose(f"{bin_folder}:{tools}", "python3"), f"PYTHON=python3: it {said}")
    assert_refused(choose(tools, str(python)), f"PYTHON={python}: it {said}")


def test_only_shims_that_fail(tools, bin_folder):
    for name in ("python3.12", "python3"):
        write_program(bin_folder / name, BROKEN_SHIM)
    done = choose(f"{bin_folder}:{tools}")
    assert_refused(done, "python3.12 does not run", "python3 does not run", "install one")


def test_a_named_python_is_taken(tools, bin_folder):
    fake_python(bin_folder / "python3.13", "3.13")
    older = fake_python(bin_folder / "python3.11", "3.11")
    assert choose(f"{bin_folder}:{tools}", "python3.11").stdout == f"{older}\n"
    assert choose(tools, str(older)).stdout == f"{older}\n"


@pytest.mark.parametrize(
    "named", ["python3.12", "/nowhere/python3.12", "cd", "/etc", "--help", "a b"]
)
def test_a_named_python_that_is_none(tools, named):
    assert_refused(choose(tools, named), f"PYTHON={named}: ", "name a")


def test_a_named_shim_that_fails(tools, bin_folder):
    write_program(bin_folder / "python3.12", BROKEN_SHIM)
    assert_refused(choose(f"{bin_folder}:{tools}", "python3.12"), "it does not run", "name a")


@pytest.fixture(params=["checkout", "a checkout's folder"])
def checkout(tmp_path, request):
    """The parts of a checkout from which environments are made."""
    folder = tmp_path / request.param
    shutil.copytree(ROOT / "tools", folder / "tools")
    shutil.copytree(ROOT / "dags", folder / "dags")
    for name in ("Makefile", "setup.py", "requirements.lock"):
        shutil.copy2(ROOT / name, folder)
    return folder


class Make:
    """Runs make in a checkout with only the given folders on PATH.

    Nothing else of the tests' own environment reaches it, such as PYTHON or INSTALL_WITH.
    """

    def __init__(self, checkout: Path, path: str) -> None:
        self.checkout = checkout
        self.path = path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            env={"PATH": self.path},
            capture_output=True,
            text=True,
            cwd=self.checkout,
        )

    def errors(self, *arguments: str) -> list[str]:
        """Returns the lines of a failed call on stderr without those of make."""
        done = self(*arguments)
        assert done.returncode == 2
        return [line for line in done.stderr.splitlines() if not line.startswith("make:")]


@pytest.fixture
def make(checkout, tools, bin_folder):
    return Make(checkout, f"{bin_folder}:{tools}")


def installations(venv: Path) -> list[str]:
    return (venv / "pip.log").read_text().splitlines()


def test_a_second_call_installs_nothing(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    done = make(".venv/run.stamp")
    assert done.returncode == 0, done.stderr
    (first,) = installations(checkout / ".venv")
    assert "--constraint requirements.lock --editable ." in first
    assert make(".venv/run.stamp").returncode == 0
    assert make(".venv/run.stamp", "PYTHON=python3.12").returncode == 0
    assert installations(checkout / ".venv") == [first]


def test_make_without_a_python_ends_in_one_line(make):
    for target in (".venv/run.stamp", "run-local", "test", "test-quick", "airflow"):
        (line,) = make.errors(target)
        assert "3.11, 3.12 or 3.13" in line
        assert "install one" in line


def test_make_with_a_named_python_that_is_none(make, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    (line,) = make.errors("run-local", "PYTHON=python2.7")
    assert "PYTHON=python2.7" in line


def test_an_environment_whose_python_is_gone_is_made_anew(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    make(".venv/run.stamp")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(bin_folder / "gone")
    assert make(".venv/run.stamp").returncode == 0
    assert python.exists()
    assert len(installations(checkout / ".venv")) >= 1


def test_another_version_than_the_environments_is_named(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    fake_python(bin_folder / "python3.11", "3.11")
    make(".venv/run.stamp")
    assert "3, 12" in (checkout / ".venv" / "bin" / "python").read_text()
    make(".venv/run.stamp", "PYTHON=python3.11")
    assert "3, 11" in (checkout / ".venv" / "bin" / "python").read_text()
    # Without a name an environment that works is kept, though there is a newer Python.
    make(".venv/run.stamp")
    assert "3, 11" in (checkout / ".venv" / "bin" / "python").read_text()


def test_a_moved_checkout_gets_a_new_environment(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    make(".venv/run.stamp")
    moved = checkout.rename(checkout.parent / "moved")
    done = Make(moved, make.path)(".venv/run.stamp")
    assert "creating it" in done.stdout
    assert str(moved) in (moved / ".venv" / "pyvenv.cfg").read_text()


def test_a_failed_installation_ends_in_one_line_and_is_tried_again(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12", pip_exit_code=1)
    for _ in range(2):
        (line,) = make.errors(".venv/run.stamp")
        assert "could not be installed into .venv" in line
    assert not (checkout / ".venv" / "run.stamp").exists()


def test_environments_lie_where_venv_says(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    assert make(".venv-3.12/test.stamp", "VENV=.venv-3.12").returncode == 0
    assert (checkout / ".venv-3.12" / "pyvenv.cfg").exists()
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("venv", ["a b", ""])
def test_a_folder_that_make_cannot_name_is_refused(make, venv):
    done = make("run-local", f"VENV={venv}")
    assert done.returncode == 2
    assert "must not be empty or contain spaces" in done.stderr


@pytest.mark.parametrize("target", [".venv/run.stamp", "clean"])
def test_a_folder_that_is_no_environment_stays_as_it_is(make, checkout, bin_folder, target):
    fake_python(bin_folder / "python3.12", "3.12")
    (checkout / "mine").mkdir()
    (checkout / "mine" / "letter.txt").write_text("precious")
    done = make(target.replace(".venv", "mine"), "VENV=mine")
    assert (checkout / "mine" / "letter.txt").read_text() == "precious"
    if target != "clean":
        assert done.returncode == 2
        assert "is not a virtual environment" in done.stderr


def test_a_link_is_not_followed_to_clear_an_environment(make, checkout, tmp_path, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "pyvenv.cfg").write_text("home = /gone\n")
    (checkout / ".venv").symlink_to(other)
    (line,) = make.errors(".venv/run.stamp")
    assert "is a link" in line
    assert (other / "pyvenv.cfg").read_text() == "home = /gone\n"


def write_wheel(folder: Path) -> None:
    """Writes a wheel of a package with a single module."""
    metadata = "thing-1.0.dist-info"
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", "ANSWER = 42\n")
        wheel.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{metadata}/WHEEL", tags)
        names = ("thing.py", f"{metadata}/METADATA", f"{metadata}/WHEEL", f"{metadata}/RECORD")
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{name},,\n" for name in names))


def test_a_real_environment_is_completed_after_an_interrupted_installation(tmp_path):
    write_wheel(tmp_path)
    venv = tmp_path / "environment"
    # What remains of an interruption right after the start: folders, but no file.
    (venv / "bin").mkdir(parents=True)
    (venv / "lib64").symlink_to("lib")
    arguments = ["--no-index", "--find-links", str(tmp_path), "thing"]
    command = ["sh", str(INSTALL), str(venv), sys.executable, *arguments]
    # Neither a user's modules nor a user's settings of pip take part.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PIP_USER": "1"}

    def install() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)

    install()
    (module,) = venv.glob("lib/python3.*/site-packages/thing.py")
    # pip was killed between the package's metadata and its module.
    module.unlink()
    (module.parent / "thing-1.0.dist-info" / "RECORD").unlink()
    install()
    assert module.read_text() == "ANSWER = 42\n"


def test_the_quick_tests_are_there():
    names = (ROOT / "tests" / "quick.txt").read_text().split()
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_lock_file_pins_all_requirements_of_each_version(version):
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    pins: dict[str, Requirement] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in pins
            pins[requirement.name] = requirement
    dags = (ROOT / "dags" / "requirements.txt").read_text()
    named = re.findall(
        r'^ {4,8}"([a-z0-9-]+(?:\[\w+\])?(?:==[\w.]+)?)",', (ROOT / "setup.py").read_text(), re.M
    )
    named += re.findall(r"^[a-z].*$", dags, re.M)
    assert len(named) > 30
    for text in named:
        requirement = Requirement(text)
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text
