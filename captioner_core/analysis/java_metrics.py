"""The two scorers of the literature that run on Java: the PTB tokenizer and METEOR.

``pycocoevalcap`` brings both as jars, but its own wrappers write a file beside the jar, which fails
where the installed packages are read-only, and they don't notice when Java fails. These functions
run the jars over pipes, so nothing is written anywhere.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captioner_core.errors import CaptionerError

# The locale decides how Java reads bytes, lowers "I" (in Turkish to a dotless i) and writes numbers.
_LOCALE = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
_METEOR_HEAP = "-Xmx2G"  # its table of paraphrases takes most of it
_FIELD_SEPARATOR = "|||"  # of METEOR's lines; a caption that holds it would shift the fields


def java_path() -> str | None:
    """Returns the path of the ``java`` program, or None where there is none."""
    return shutil.which("java")


def check_java() -> None:
    """Starts Java once, where there is one, with the memory that scoring takes.

    Raises:
      CaptionerError: Java is installed but does not run.
    """
    java = java_path()
    if java is not None:
        _run([java, _METEOR_HEAP, *_LOCALE, "-version"], None, b"")


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Returns each caption's tokens, in lower case and without punctuation, joined by spaces.

    Args:
      captions: texts without line separators; see ``text.single_line``.

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
    command = [_java(), *_LOCALE, "-cp", jar.name, *tokenizer]
    sent = "".join(f"{caption}\n" for caption in captions)
    lines = _run(command, jar.parent, sent.encode("utf-8")).decode("utf-8").split("\n")
    end = lines.pop()  # nothing follows the last line's end

    if end or len(lines) != len(captions):
        # A line too many or too few would score every later image against another image's captions.
        raise CaptionerError(
            f"the PTB tokenizer returned {len(lines)} lines for {len(captions)} captions; "
            "take line separators out of the captions and run it again"
        )
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    return [
        " ".join(token for token in line.split(" ") if token and token not in punctuation)
        for line in lines
    ]


def meteor(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> float:
    """Returns METEOR 1.5 (Denkowski and Lavie 2014) over all captions, as a fraction.

    Args:
      references: image id to its tokenized human captions.
      hypotheses: image id to its tokenized caption.

    Raises:
      CaptionerError: Java fails.
    """
    from pycocoevalcap.meteor import meteor as package

    jar = Path(package.__file__).with_name(package.METEOR_JAR)
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    command = [_java(), _METEOR_HEAP, *_LOCALE, "-jar", jar.name, *options]
    with _conversation(command, jar.parent) as session:
        statistics = [
            session.ask(_fields("SCORE", *references[image_id], caption))
            for image_id, caption in hypotheses.items()
        ]
        session.send(_fields("EVAL", *statistics))
        for _ in statistics:
            session.receive()  # each image's own score
        return float(session.receive())


def _fields(*fields: str) -> str:
    cleaned = [field.replace(_FIELD_SEPARATOR, " ").strip() for field in fields]
    return f" {_FIELD_SEPARATOR} ".join(cleaned)


def _java() -> str:
    java = java_path()
    if java is None:
        raise CaptionerError(
            "there is no 'java' on the PATH; install a Java runtime, such as default-jre-headless"
        )
    return java


def _run(command: Sequence[str], folder: Path | None, sent: bytes) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603  a list of fixed words
            command, cwd=folder, input=sent, capture_output=True, check=False
        )
    except OSError as error:
        raise _failed(command[0], error.strerror or str(error)) from error
    if done.returncode:
        raise _failed(command[0], _reason(done.stderr or done.stdout, done.returncode))
    return done.stdout


class _Session:
    """Lines exchanged with a Java program that answers line by line."""

    def __init__(self, process: subprocess.Popen[bytes], java: str) -> None:
        self._process = process
        self._java = java
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(f"{line}\n".encode())
            stream.flush()
        except OSError as error:  # the program has ended
            raise self._ended() from error

    def receive(self) -> str:
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline().decode("utf-8", "replace")
        if not line.endswith("\n"):
            raise self._ended()
        try:
            [float(number) for number in line.split()]
        except ValueError as error:
            raise _failed(self._java, line.strip()) from error
        return line.strip()

    def ask(self, line: str) -> str:
        self.send(line)
        return self.receive()

    def _read_errors(self) -> None:
        """Reads what the program complains about, so that it never waits for a reader."""
        assert self._process.stderr is not None
        self._errors.append(self._process.stderr.read())

    def _ended(self) -> CaptionerError:
        code = self._process.wait()
        self._reader.join()
        return _failed(self._java, _reason(b"".join(self._errors), code))


@contextlib.contextmanager
def _conversation(command: Sequence[str], folder: Path) -> Iterator[_Session]:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(  # noqa: S603  a list of fixed words
            command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise _failed(command[0], error.strerror or str(error)) from error
    try:
        yield _Session(process, command[0])
    finally:
        process.kill()
        with contextlib.suppress(OSError), process:  # closes the pipes, and waits for the end
            pass


def _reason(said: bytes, code: int) -> str:
    """Returns the first line that tells why a program failed."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    # Java names the variables that it takes options from before it says anything else.
    telling = [line for line in lines if line and not line.startswith("Picked up ")]
    return telling[0] if telling else f"exit code {code}"


def _failed(java: str, reason: str) -> CaptionerError:
    return CaptionerError(
        f"Java at {java!r} failed ({reason}); repair it, or take it off the PATH to score without "
        "the PTB tokenizer and METEOR"
    )
