"""One target under the fuzzer, in a process of its own: ``python -m fuzz.session TARGET [libFuzzer's arguments]``.

Pillow's C code is not instrumented: of it, the fuzzer sees what its callers in Python do.
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

    Image.init()  # else Pillow imports its formats' readers at the first image, too late to be instrumented

_PNG = b"\x89PNG\r\n\x1a\n"


def main(argv: list[str]) -> None:
    """Fuzzes until libFuzzer ends the process: 0 where time is up, else there is a finding."""
    target = argv[1]
    atheris.Setup(
        [argv[0], *argv[2:]],
        TARGETS[target],
        custom_mutator=_mutate if target == "images" else None,
    )
    atheris.Fuzz()


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own change; every second PNG then gets right check sums, or no change would get past them."""
    changed = atheris.Mutate(data, max_size)
    mends = changed.startswith(_PNG) and random.Random(seed).random() < 0.5
    return _with_check_sums(changed)[:max_size] if mends else changed


def _with_check_sums(png: bytes) -> bytes:
    mended, place = bytearray(png), len(_PNG)
    while place + 12 <= len(mended):
        end = place + 8 + struct.unpack_from(">I", mended, place)[0]
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


if __name__ == "__main__":
    main(sys.argv)
