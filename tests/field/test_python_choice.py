"""``make`` finds a Python that works and creates an environment with it.

If it cannot, it says why in one line. Stand-ins play all interpreters except in one test.
"""

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
    """Writes an executable file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path: Path, version: str, changes: str = "", pip_exit_code: int = 0) -> Path:
    """Writes a stand-in for an interpreter and returns its path.

    Args:
      path: the path.
      version: the version that it states.
      changes: Python code that changes what it states of itself.
      pip_exit_code: the exit code of its pip.
    """
    text = FAKE_PYTHON.format(
        python=sys.executable,
        version=version.replace(".", ", "),
        changes=changes,
        pip_exit_code=pip_exit_code,
    )
    return write_program(path, text)


def tools_path(folder: Path) -> str:
    """Returns a folder for PATH that holds make and basic tools, but no Python."""
    folder.mkdir()
    names = "sh basename cat cp dirname echo env find make mkdir rm sed test touch awk"
    for name in names.split():
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


def choose(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the script that chooses a Python, with this PATH."""
    environment = {"PATH": path}
    return subprocess.run(
        ["/bin/sh", str(CHOOSE), *arguments], env=environment, capture_output=True, text=True
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Asserts that the script ended with exit code 2 and one line with these words."""
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture
def tools(tmp_path):
    """Returns a folder for PATH that holds make and basic tools, but no Python."""
    return tools_path(tmp_path / "tools")


@pytest.fixture
def bin_folder(tmp_path):
    """Returns an empty folder for stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", ["python{}", "python3", "python"])
def test_the_only_python_is_chosen_by_any_name(tools, bin_folder, version, name):
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
def test_the_newest_supported_version_is_chosen(tools, bin_folder, installed, chosen):
    for name, version in installed.items():
        fake_python(bin_folder / name, version)
    assert choose(f"{bin_folder}:{tools}").stdout == f"{bin_folder / chosen}\n"


def test_a_failing_shim_is_skipped(tools, tmp_path, bin_folder):
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
def test_an_unsuitable_newer_python_is_skipped(tools, bin_folder, changes):
    fake_python(bin_folder / "python3.13", "3.13", changes)
    python = fake_python(bin_folder / "python3.11", "3.11")
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_a_path_that_is_no_program_is_skipped(tools, bin_folder):
    (bin_folder / "python3.13").mkdir()
    (bin_folder / "python3.12").write_text("not executable")
    (bin_folder / "python3.11").symlink_to("missing")
    python = fake_python(bin_folder / "python3", "3.11")
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_path_may_contain_spaces_and_empty_entries(tools, tmp_path):
    python = fake_python(tmp_path / "my tools" / "python3.12", "3.12")
    assert choose(f":{python.parent}::{tools}").stdout == f"{python}\n"


def test_a_wrapper_may_print_something_first(tools, bin_folder):
    python = fake_python(bin_folder / "real" / "python3.12", "3.12")
    write_program(bin_folder / "python3", f'#!/bin/sh\necho "Loading"\nexec {python} "$@"\n')
    assert choose(f"{bin_folder}:{tools}").stdout == f"{python}\n"


def test_a_missing_python_is_reported_in_one_line(tools):
    assert_refused(choose(tools), "3.11, 3.12 or 3.13", "install one", "PYTHON=")


@pytest.mark.parametrize(
    ("version", "changes", "reason"),
    [
        ("3.14", "", "is Python 3.14"),
        ("3.10", "", "is Python 3.10"),
        ("3.13", NO_GIL, "is a free-threaded build"),
        ("3.12", WITHOUT_ENSUREPIP, "lacks its module ensurepip"),
        ("3.12", WITHOUT_VENV, "lacks its module venv"),
        ("3.11", OTHER_IMPLEMENTATION, "is pypy"),
    ],
)
def test_an_unsuitable_python_is_refused_with_the_reason(
    tools, bin_folder, version, changes, reason
):
    python = fake_python(bin_folder / "python3", version, changes)
    assert_refused(choose(f"{bin_folder}:{tools}"), f"python3 {reason}", "install one")
    assert_refused(choose(f"{bin_folder}:{tools}", "python3"), f"PYTHON=python3: it {reason}")
    assert_refused(choose(tools, str(python)), f"PYTHON={python}: it {reason}")


def test_failing_shims_alone_are_refused_by_name(tools, bin_folder):
    for name in ("python3.12", "python3"):
        write_program(bin_folder / name, BROKEN_SHIM)
    done = choose(f"{bin_folder}:{tools}")
    assert_refused(done, "python3.12 does not run", "python3 does not run", "install one")


def test_the_named_python_is_chosen(tools, bin_folder):
    fake_python(bin_folder / "python3.13", "3.13")
    older = fake_python(bin_folder / "python3.11", "3.11")
    assert choose(f"{bin_folder}:{tools}", "python3.11").stdout == f"{older}\n"
    assert choose(tools, str(older)).stdout == f"{older}\n"


@pytest.mark.parametrize(
    "named", ["python3.12", "/nowhere/python3.12", "cd", "/etc", "--help", "a b"]
)
def test_a_named_program_that_is_no_python_is_refused(tools, named):
    assert_refused(choose(tools, named), f"PYTHON={named}: ", "name a")


def test_a_named_shim_that_fails_is_refused(tools, bin_folder):
    write_program(bin_folder / "python3.12", BROKEN_SHIM)
    assert_refused(choose(f"{bin_folder}:{tools}", "python3.12"), "it does not run", "name a")


@pytest.fixture(params=["checkout", "a checkout's folder"])
def checkout(tmp_path, request):
    """Returns a folder with the parts of a checkout from which environments are made."""
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
    """Returns a function that runs make in the checkout."""
    return Make(checkout, f"{bin_folder}:{tools}")


def installations(venv: Path) -> list[str]:
    """Returns how pip was called to install into an environment."""
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


def test_make_with_a_wrong_python_name_ends_in_one_line(make, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    (line,) = make.errors("run-local", "PYTHON=python2.7")
    assert "PYTHON=python2.7" in line


def test_an_environment_with_a_deleted_python_is_created_again(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    make(".venv/run.stamp")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(bin_folder / "missing")
    assert make(".venv/run.stamp").returncode == 0
    assert python.exists()
    assert len(installations(checkout / ".venv")) >= 1


def test_naming_another_version_replaces_the_environment(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    fake_python(bin_folder / "python3.11", "3.11")
    make(".venv/run.stamp")
    assert "3, 12" in (checkout / ".venv" / "bin" / "python").read_text()
    make(".venv/run.stamp", "PYTHON=python3.11")
    assert "3, 11" in (checkout / ".venv" / "bin" / "python").read_text()
    # Without a name, an environment that works is kept even if there is a newer Python.
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


def test_venv_chooses_the_folder_of_the_environment(make, checkout, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    assert make(".venv-3.12/test.stamp", "VENV=.venv-3.12").returncode == 0
    assert (checkout / ".venv-3.12" / "pyvenv.cfg").exists()
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("venv", ["a b", ""])
def test_an_empty_venv_or_one_with_spaces_is_refused(make, venv):
    done = make("run-local", f"VENV={venv}")
    assert done.returncode == 2
    assert "must not be empty or contain spaces" in done.stderr


@pytest.mark.parametrize("target", [".venv/run.stamp", "clean"])
def test_a_folder_that_is_no_environment_is_not_changed(make, checkout, bin_folder, target):
    fake_python(bin_folder / "python3.12", "3.12")
    (checkout / "mine").mkdir()
    (checkout / "mine" / "letter.txt").write_text("precious")
    done = make(target.replace(".venv", "mine"), "VENV=mine")
    assert (checkout / "mine" / "letter.txt").read_text() == "precious"
    if target != "clean":
        assert done.returncode == 2
        assert "is not a virtual environment" in done.stderr


def test_a_link_in_place_of_the_environment_is_not_followed(make, checkout, tmp_path, bin_folder):
    fake_python(bin_folder / "python3.12", "3.12")
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "pyvenv.cfg").write_text("home = /missing\n")
    (checkout / ".venv").symlink_to(other)
    (line,) = make.errors(".venv/run.stamp")
    assert "is a link" in line
    assert (other / "pyvenv.cfg").read_text() == "home = /missing\n"


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


def test_an_interrupted_installation_is_completed(tmp_path):
    write_wheel(tmp_path)
    venv = tmp_path / "environment"
    # What remains of an interruption right after the start: folders, but no file.
    (venv / "bin").mkdir(parents=True)
    (venv / "lib64").symlink_to("lib")
    arguments = ["--no-index", "--find-links", str(tmp_path), "thing"]
    command = ["sh", str(INSTALL), str(venv), sys.executable, *arguments]
    # The user's modules and settings of pip must have no effect.
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


def test_the_listed_quick_tests_exist():
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
    required = re.findall(
        r'^ {4,8}"([a-z0-9-]+(?:\[\w+\])?(?:==[\w.]+)?)",', (ROOT / "setup.py").read_text(), re.M
    )
    required += re.findall(r"^[a-z].*$", dags, re.M)
    assert len(required) > 30
    for text in required:
        requirement = Requirement(text)
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text
