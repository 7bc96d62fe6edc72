"""Runs the two scorers of the literature that need Java: the PTB tokenizer and METEOR.

``pycocoevalcap`` contains both as jars. Its own wrappers write a file beside the jar, which fails
where the installed packages are read-only, and they do not notice when Java fails. The functions
here run the jars over pipes instead, so nothing is written to disk.
"""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captioner_core.errors import CaptionerError

# Java's locale decides how it reads bytes, how it lowers "I" (to a dotless i in Turkish), and how
# it writes numbers.
_LOCALE = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
_METEOR_HEAP = "-Xmx2G"  # METEOR's table of paraphrases takes most of it.
_FIELD_SEPARATOR = "|||"  # Separates the fields of the lines that METEOR reads.


def java_path() -> str | None:
    """Returns the path of the ``java`` program, or None if there is none."""
    return shutil.which("java")


def check_java() -> None:
    """Makes sure that Java, if it is installed, starts with the memory that scoring needs.

    Raises:
      CaptionerError: Java is installed but does not run.
    """
    java = java_path()
    if java is not None:
        _run_java([java, _METEOR_HEAP, *_LOCALE, "-version"], None, b"")


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Returns the tokens of captions, in lower case and without punctuation, joined by spaces.

    Args:
      captions: texts without line separators; see ``vocabulary.single_line``.

    Raises:
      CaptionerError: Java fails, or does not return one line for each caption.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    tokenizer = [
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
        "-encoding",
        "utf-8",
    ]
    command = [_require_java(), *_LOCALE, "-cp", jar.name, *tokenizer]
    text = "".join(f"{caption}\n" for caption in captions)
    lines = _run_java(command, jar.parent, text.encode("utf-8")).decode("utf-8").split("\n")
    rest = lines.pop()  # Nothing follows the end of the last line.

    if rest or len(lines) != len(captions):
        # With a line too many or too few, later images would be scored against the captions of
        # other images.
        raise CaptionerError(
            f"the PTB tokenizer returned {len(lines)} lines for {len(captions)} captions; "
            "remove line separators from the captions and run it again"
        )
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    return [
        " ".join(token for token in line.split(" ") if token and token not in punctuation)
        for line in lines
    ]


def meteor(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> float:
    """Returns METEOR 1.5 (Denkowski and Lavie 2014) over all captions, as a fraction of 1.

    Args:
      references: the tokenized human captions of each image, by image id.
      hypotheses: the tokenized caption of each image, by image id.

    Raises:
      CaptionerError: Java fails.
    """
    from pycocoevalcap.meteor import meteor as package

    jar = Path(package.__file__).with_name(package.METEOR_JAR)
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    command = [_require_java(), _METEOR_HEAP, *_LOCALE, "-jar", jar.name, *options]
    with _open_session(command, jar.parent) as session:
        statistics = [
            session.ask(_meteor_line("SCORE", *references[image_id], caption))
            for image_id, caption in hypotheses.items()
        ]
        session.send(_meteor_line("EVAL", *statistics))
        for _ in statistics:
            session.receive()  # The scores of single images come before that of all.
        return float(session.receive())


def _meteor_line(*fields: str) -> str:
    """Returns a line for METEOR; a separator within a caption would shift the fields."""
    cleaned = [field.replace(_FIELD_SEPARATOR, " ").strip() for field in fields]
    return f" {_FIELD_SEPARATOR} ".join(cleaned)


def _require_java() -> str:
    java = java_path()
    if java is None:
        raise CaptionerError(
            "no 'java' was found on the PATH; install a Java runtime, such as default-jre-headless"
        )
    return java


def _run_java(command: Sequence[str], folder: Path | None, text: bytes) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603  The command consists of fixed words.
            command, cwd=folder, input=text, capture_output=True, check=False
        )
    except OSError as error:
        raise _java_error(command[0], error.strerror or str(error)) from error
    if done.returncode:
        raise _java_error(command[0], _failure_reason(done.stderr or done.stdout, done.returncode))
    return done.stdout


class _Session:
    """A conversation with a Java program that answers line by line.

    Args:
      process: the program, with pipes to all of its streams.
      java: the path of ``java``, for messages.
    """

    def __init__(self, process: subprocess.Popen[bytes], java: str) -> None:
        self._process = process
        self._java = java
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        """Writes a line to the program."""
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(f"{line}\n".encode())
            stream.flush()
        except OSError as error:  # The program has ended.
            raise self._ended_error() from error

    def receive(self) -> str:
        """Returns the program's next line, which must consist of numbers."""
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline().decode("utf-8", "replace")
        if not line.endswith("\n"):
            raise self._ended_error()
        try:
            [float(number) for number in line.split()]
        except ValueError as error:
            raise _java_error(self._java, line.strip()) from error
        return line.strip()

    def ask(self, line: str) -> str:
        """Writes a line to the program and returns its answer."""
        self.send(line)
        return self.receive()

    def _read_errors(self) -> None:
        """Reads the program's error stream, so that the program never waits for a reader."""
        assert self._process.stderr is not None
        self._errors.append(self._process.stderr.read())

    def _ended_error(self) -> CaptionerError:
        code = self._process.wait()
        self._reader.join()
        return _java_error(self._java, _failure_reason(b"".join(self._errors), code))


@contextlib.contextmanager
def _open_session(command: Sequence[str], folder: Path) -> Iterator[_Session]:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(  # noqa: S603  The command consists of fixed words.
            command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise _java_error(command[0], error.strerror or str(error)) from error
    try:
        yield _Session(process, command[0])
    finally:
        process.kill()
        with contextlib.suppress(OSError), process:
            pass  # Leaving the process's context closes its pipes and waits for its end.


def _failure_reason(output: bytes, code: int) -> str:
    """Returns the first line of a program's output that says why it failed."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    # Java first names the environment variables that it takes options from.
    reasons = [line for line in lines if line and not line.startswith("Picked up ")]
    return reasons[0] if reasons else f"exit code {code}"


def _java_error(java: str, reason: str) -> CaptionerError:
    return CaptionerError(
        f"Java at {java!r} failed ({reason}); repair it, or remove it from the PATH to score "
        "without the PTB tokenizer and METEOR"
    )
