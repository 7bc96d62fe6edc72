"""In any environment, a program does its work or says in one line what to change.

Each program runs in a process of its own, with other locales, streams, folders, users and limits.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from captioner_core.process.cache_folder import cache_dir
from tests.field.programs import as_nobody, call, captioner, environment, in_shell, python
from tests.processes import read_line
from tests.runs import make_run

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can become another user",
)
ASCII_FILE_NAMES = {"PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONUTF8": "0"}
USER_KERAS = {
    "backend": "torch",
    "image_data_format": "channels_first",
    "floatx": "float16",
    "epsilon": 0.5,
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Returns the folder of a finished run."""
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def temporary(tmp_path):
    """Returns an empty folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def assert_one_line(ended, code, *parts):
    """Asserts that a program ended with this code and one line that contains these parts."""
    assert ended.code == code, ended
    assert len(ended.lines) == 1, ended.err
    for part in parts:
        assert part in ended.err
    assert "Traceback" not in ended.err


# Locales


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_letters_that_a_terminal_lacks_are_printed_as_escapes(run_dir, tmp_path, encoding):
    folder = tmp_path / "Ferien-Grüße-犬"
    shutil.copytree(run_dir, folder)
    ended = captioner("report", folder, PYTHONIOENCODING=encoding)
    assert ended.code == 0, ended
    assert "Ferien-Gr" in ended.out
    assert "\\u72ac" in ended.out
    assert ended.err == ""


def test_errors_are_printed_with_escapes_too(tmp_path):
    assert_one_line(
        captioner("verify", tmp_path / "ö犬", PYTHONIOENCODING="ascii"), 2, "\\xf6\\u72ac"
    )


def test_an_ascii_locale_is_refused_at_the_start(run_dir):
    assert_one_line(
        captioner("verify", run_dir, **ASCII_FILE_NAMES),
        2,
        "'ascii'",
        "LC_ALL=C.UTF-8",
        "PYTHONUTF8=1",
    )


@pytest.mark.skipif(
    not shutil.which("localedef"), reason="needs localedef to make a Latin-1 locale"
)
def test_a_latin_1_locale_is_refused_at_the_start(run_dir, tmp_path):
    process = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")],
        capture_output=True,
    )
    if process.returncode > 1:
        pytest.skip("localedef lacks the sources of locales")
    variables = {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}
    assert_one_line(captioner("verify", run_dir, **variables), 2, "iso8859-1", "LC_ALL=C.UTF-8")


def test_help_needs_no_particular_locale():
    assert captioner("--help", **ASCII_FILE_NAMES).code == 0


# Standard streams


def test_a_report_is_written_while_stdout_is_closed(run_dir):
    shutil.rmtree(Path(run_dir, "report"), ignore_errors=True)
    ended = in_shell('"$@" >&-', "report", run_dir)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert Path(run_dir, "report", "index.html").stat().st_size > 1000


@pytest.mark.parametrize("closed", ["<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_is_printed_into_files_while_streams_are_closed(run_dir, closed):
    shutil.rmtree(Path(run_dir, "report"), ignore_errors=True)
    assert in_shell(f'"$@" {closed}', "report", run_dir).code == 0
    page = Path(run_dir, "report", "index.html").read_text(encoding="utf-8")
    assert page.startswith("<!")
    assert in_shell(f'"$@" {closed}', "verify", "nowhere").code == 2


def test_a_full_stdout_is_an_error(run_dir):
    assert_one_line(
        in_shell('"$@" >/dev/full', "verify", run_dir),
        1,
        "stdout can't be written",
        "No space left",
    )


def test_a_full_stderr_does_not_change_the_exit_code():
    assert in_shell('"$@" 2>/dev/full', "verify", "nowhere").code == 2


PRINTS_MUCH = """
import os, sys
from captioner_core.process import program
program.begin()

def work():
    for number in range(3000):
        print("out", number)
        print("err", number, file=sys.stderr)
        os.write(2, b"native\\n")
    sys.stdout.flush()
    open(sys.argv[1], "w").close()
    return 0

sys.exit(program.guarded(work, "work"))
"""


@pytest.mark.parametrize(
    "pipe", ["2>&1 | head -1", "| head -1", "2>&1 >/dev/null | head -1", "2>&1 | true"]
)
def test_the_work_goes_on_after_a_reader_closes_the_pipe(tmp_path, pipe):
    script = f'set -o pipefail; exec "$@" {pipe}' if shutil.which("bash") else f'"$@" {pipe}'
    shell = "bash" if shutil.which("bash") else "sh"
    ended = call(
        [shell, "-c", script, shell, sys.executable, "-P", "-c", PRINTS_MUCH, tmp_path / "done"]
    )
    assert (tmp_path / "done").exists(), "the work goes on"
    assert ended.code == 0
    assert "Exception ignored" not in ended.err
    assert "BrokenPipe" not in ended.out + ended.err


def test_a_non_blocking_pipe_gets_all_output(tmp_path):
    """Some programs start others with non-blocking pipes, and read them slowly."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [
        sys.executable,
        "-P",
        "-c",
        PRINTS_MUCH.replace("3000", "20000"),
        str(tmp_path / "done"),
    ]
    with subprocess.Popen(
        command, stdout=writer, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        os.close(writer)
        time.sleep(1)
        with open(reader, "rb") as stream:
            output = stream.read()
    assert process.returncode == 0
    assert output.endswith(b"out 19999\n")


def test_only_known_start_messages_of_libraries_are_left_out():
    code = (
        "import os; from captioner_core.process import program; program.begin();"
        "os.write(2, b'WARNING: All log messages before absl::InitializeLog() is called '"
        "b'are written to STDERR\\n');"
        "os.write(2, b'I0000 00:00:1795733994.036576   10221 port.cc:153] '"
        "b'oneDNN custom operations are on.\\n');"
        "os.write(2, b'a line of a library\\n');"
        "os.write(2, b'W1126 23:00:01.000001 1 cuda.cc:1] a warning\\n');"
        "os.system('echo a line of a child >&2')"
    )
    assert python(code).lines == ["a line of a library", "a line of a child"]


# Temporary files


def test_the_temporary_folder_is_empty_afterwards(run_dir, temporary):
    assert captioner("report", run_dir, TMPDIR=str(temporary)).code == 0
    assert os.listdir(temporary) == []


KEEPS_FILES = """
import os, subprocess, sys, tempfile, time
from captioner_core.process import program
program.begin()

def work():
    program.check_environment()
    tempfile.mkdtemp()
    subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
    return 0

sys.exit(program.guarded(work, "work"))
"""


def start_keeping_files(temporary, seconds="60"):
    """Starts a program that keeps temporary files for some seconds; returns it once they exist."""
    command = [sys.executable, "-P", "-c", KEEPS_FILES, seconds]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment(TMPDIR=str(temporary))
    )
    assert read_line(process) == b"ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_process_deletes_its_temporary_files(temporary, number):
    if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup, whose processes ignore the signal")
    with start_keeping_files(temporary) as process:
        (folder,) = os.listdir(temporary)
        assert folder.startswith(f"captioner-{process.pid}-")
        assert len(os.listdir(temporary / folder)) == 3, (
            "its own folder, that of its child, and the lock"
        )
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert os.listdir(temporary) == []


def test_a_start_deletes_folders_of_killed_processes_only(temporary):
    with start_keeping_files(temporary) as killed, start_keeping_files(temporary) as alive:
        killed.kill()
        killed.wait()
        (temporary / "captioner-notes").mkdir()
        (temporary / "captioner-1-theirs").symlink_to(temporary / "captioner-notes")
        with start_keeping_files(temporary, "0") as third:
            assert third.wait(20) == 0
        left = os.listdir(temporary)
        alive.kill()
    assert sorted(name.split("-")[1] for name in left) == sorted([str(alive.pid), "1", "notes"])


@needs_root
def test_without_a_writable_temporary_folder_one_line_names_tmpdir(run_dir, tmp_path):
    """Makes /tmp and /var/tmp read-only in a mount namespace; TMPDIR names a missing folder."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    bind = (
        'for f in /tmp /var/tmp; do mount --bind "$f" "$f"; mount -o remount,ro,bind "$f"; done; '
        'exec "$@"'
    )
    prefix = ["unshare", "-m", "sh", "-c", bind, "sh"]
    assert_one_line(
        captioner("verify", run_dir, prefix=prefix, TMPDIR="/nowhere"), 2, "TMPDIR", "/nowhere"
    )


def test_matplotlibs_message_about_fonts_is_not_shown(run_dir, tmp_path):
    """In a new home, matplotlib makes a list of fonts, and prints a message after five seconds."""
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import threading\n"
        "class Timer(threading.Timer):\n"
        "    def __init__(self, interval, function, *args, **kwargs):\n"
        "        super().__init__(interval, function, *args, **kwargs)\n"
        "        if interval == 5:\n"
        "            function()\n"
        "threading.Timer = Timer\n"
    )
    ended = captioner(
        "report", run_dir, HOME=str(tmp_path), MPLCONFIGDIR=None, PYTHONPATH=str(tmp_path)
    )
    assert (ended.code, ended.err) == (0, "")


def test_a_tmpdir_that_does_not_exist_is_ignored(run_dir):
    assert captioner("verify", run_dir, TMPDIR="/nowhere").code == 0


# Home, cache, users


def test_a_command_without_a_cache_needs_no_home(run_dir):
    assert captioner("verify", run_dir, HOME="/etc/passwd").code == 0


@pytest.mark.parametrize("home", ["/etc/passwd", "/proc/nowhere"])
def test_a_home_that_is_no_folder_is_refused_with_the_variable(tmp_path, home):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    ended = captioner(
        "extract",
        "--images",
        tmp_path / "images",
        "--output",
        tmp_path / "out",
        HOME=home,
        XDG_CACHE_HOME=None,
    )
    assert_one_line(ended, 2, "CAPTIONER_CACHE", home)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def open_folder():
    """Returns a folder in which every user may write, which pytest's folders do not allow."""
    # Other users may be unable to reach the folder that TMPDIR names.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@needs_root
def test_a_user_without_a_home_is_refused_with_the_variable(open_folder):
    (open_folder / "images").mkdir()
    (open_folder / "images" / "a.jpg").touch()
    command = ("extract", "--images", open_folder / "images", "--output", open_folder / "out")
    ended = captioner(
        *command, prefix=as_nobody(), HOME=None, CAPTIONER_CACHE=None, XDG_CACHE_HOME=None
    )
    assert_one_line(ended, 2, "CAPTIONER_CACHE", "54321")


@needs_root
def test_a_user_without_a_home_may_use_a_complete_read_only_cache(tmp_path):
    """The installed packages cannot be written either, because they belong to root."""
    ended = captioner("assets", prefix=as_nobody(), HOME=None, CAPTIONER_CACHE=str(cache_dir()))
    assert ended.code == 0, ended
    assert ended.err == ""
    assert "verified" in ended.out


@needs_root
def test_a_user_without_a_home_may_write_a_report(open_folder):
    folder = Path(make_run(open_folder))
    subprocess.run(["chown", "-R", "54321:54321", str(open_folder)], check=True)
    ended = captioner("report", folder, prefix=as_nobody(), HOME=None)
    assert (ended.code, ended.err) == (0, ""), ended


# Limits


@pytest.mark.parametrize("umask", ["077", "022", "000"])
def test_umasks_that_let_the_owner_use_files_are_accepted(tmp_path, umask):
    folder = make_run(tmp_path)
    assert in_shell(f'umask {umask}; "$@"', "report", folder).code == 0


@pytest.mark.parametrize("umask", ["777", "400", "0300"])
def test_other_umasks_are_refused(run_dir, umask):
    assert_one_line(in_shell(f'umask {umask}; "$@"', "verify", run_dir), 2, "umask", "0022")


def test_too_little_address_space_is_reported_in_one_line(run_dir):
    assert_one_line(in_shell('ulimit -v 900000; "$@"', "verify", run_dir), 2, "ulimit -v")


def test_too_little_address_space_for_tensorflow_is_reported_in_one_line():
    code = (
        "import sys; from captioner_core.process import program; program.begin()\n"
        "def work():\n    import captioner_core.process.tensorflow_setup\n    return 0\n"
        "sys.exit(program.guarded(work, 'work'))"
    )
    ended = call(
        ["sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh", sys.executable, "-P", "-c", code]
    )
    assert_one_line(ended, 2, "4096 MiB", "ulimit -v")


def test_a_deleted_current_folder_is_reported_in_one_line(run_dir, tmp_path):
    (tmp_path / "removed").mkdir()
    ended = in_shell(
        f'cd "{tmp_path}/removed" && rmdir "{tmp_path}/removed" && "$@"', "verify", run_dir
    )
    assert_one_line(ended, 2, "current folder")


# Keras

PRINTS_SETTINGS = """
import json
from captioner_core.process.tensorflow_setup import keras
config = keras.config
print(json.dumps({
    "backend": config.backend(),
    "image_data_format": config.image_data_format(),
    "floatx": config.floatx(),
    "epsilon": config.epsilon(),
}))
"""


@pytest.mark.parametrize("where", ["home", "keras_home"])
def test_the_users_settings_for_keras_are_ignored(tmp_path, where):
    folder = tmp_path / ".keras"
    folder.mkdir()
    (folder / "keras.json").write_text(json.dumps(USER_KERAS))
    variables = {"HOME": str(tmp_path), "KERAS_HOME": None if where == "home" else str(folder)}
    ended = python(PRINTS_SETTINGS, KERAS_BACKEND="torch", KERAS_MAX_EPOCHS="many", **variables)
    assert ended.code == 0, ended.err[-2000:]
    assert json.loads(ended.out) == {
        "backend": "tensorflow",
        "image_data_format": "channels_last",
        "floatx": "float32",
        "epsilon": 1e-7,
    }
    assert json.loads((folder / "keras.json").read_text()) == USER_KERAS
    assert os.listdir(folder) == ["keras.json"]


def test_keras_loaded_with_another_backend_is_refused():
    code = (
        "import sys, types; keras = sys.modules['keras'] = types.ModuleType('keras');"
        "keras.config = types.SimpleNamespace(backend=lambda: 'torch');"
        "sys.modules['tensorflow'] = types.ModuleType('tensorflow');"
        "from captioner_core.process import program; program.begin();"
        "import captioner_core.process.tensorflow_setup"
    )
    assert_one_line(python(code), 2, "'torch'", "KERAS_BACKEND")


def test_only_one_module_imports_tensorflow():
    """Any other import would let the user's settings take effect."""
    packages = ("captioner_core", "captioner_cli", "beam_jobs", "captioner_airflow")
    found = [
        str(path.relative_to(root))
        for root in [Path(__file__).parents[2]]
        for package in packages
        for path in (root / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("import tensorflow", "import keras", "from keras"))
    ]
    assert set(found) == {"captioner_core/process/tensorflow_setup.py"}
