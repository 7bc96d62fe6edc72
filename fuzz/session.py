"""Fuzzes one target in this process.

    python -m fuzz.session TARGET [LIBFUZZER_ARGUMENTS]

Pillow's C code is not instrumented, so the fuzzer sees only what Pillow's Python code does.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(
    include=["captioner_core", "PIL", "csv", "json", "zipfile", "numpy.lib"]
):
    from PIL import Image

    from fuzz.targets import TARGETS

    # Pillow would otherwise import its readers at the first image, too late to be instrumented.
    Image.init()

_PNG = b"\x89PNG\r\n\x1a\n"


def main(argv: list[str]) -> None:
    """Fuzzes until libFuzzer ends the process, with exit code 0 if there was no finding in time."""
    target = argv[1]
    atheris.Setup(
        [argv[0], *argv[2:]],
        TARGETS[target],
        custom_mutator=_mutate if target == "images" else None,
    )
    atheris.Fuzz()


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Returns libFuzzer's mutation of an input; half of the mutated PNGs get correct checksums.

    Without correct checksums, decoders reject a mutated PNG before they read its content.
    """
    changed = atheris.Mutate(data, max_size)
    is_repaired = changed.startswith(_PNG) and random.Random(seed).random() < 0.5
    return _with_checksums(changed)[:max_size] if is_repaired else changed


def _with_checksums(png: bytes) -> bytes:
    """Returns a PNG with the correct checksum in each chunk (PNG specification, section 5.3)."""
    repaired = bytearray(png)
    offset = len(_PNG)
    while offset + 12 <= len(repaired):
        end = offset + 8 + struct.unpack_from(">I", repaired, offset)[0]
        if end + 4 > len(repaired):
            break
        struct.pack_into(">I", repaired, end, zlib.crc32(repaired[offset + 4 : end]))
        offset = end + 4
    return bytes(repaired)


if __name__ == "__main__":
    main(sys.argv)
