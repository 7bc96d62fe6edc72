"""Mends image files that browsers show and Pillow refuses: bytes in, bytes out, no pixel is touched.

Two faults are mended. Parts of a file that say nothing about its pixels, such as comments, profiles and
previews, may be broken or very large; they are left out. A JPEG may lack its end marker; it is added.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"

_MAX_TEXT_BYTES = 65_536
"""The most bytes of a PNG's text that are kept for the orientation in it; XMP and EXIF blocks are smaller."""
_TEXT_WITH_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
# Bytes of the chunk tRNS by the colour type of the image (PNG specification, 11.3.2.1)
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}

_STANDALONE_MARKERS = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN, _END_OF_IMAGE, _COMMENT, _APP0, _APP1, _APP14 = 0xDA, 0xD9, 0xFE, 0xE0, 0xE1, 0xEE
_ADOBE_BYTES = 12
_COEFFICIENTS = 64
_MARKER_IN_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")
# Random, so that no decoder takes it for the rest of any picture; without 0xFF, which would begin a marker
_NOISE = bytes((number * number * 2_654_435_761 >> 13) % 255 for number in range(1, 4097))


def without_optional_parts(data: bytes) -> bytes | None:
    """Returns a PNG or JPEG without the parts that don't decide its pixels or its orientation.

    Critical chunks of a PNG stay as they are, broken or not. Of the others, transparency, EXIF and small
    texts that may hold the orientation stay where their checksum is right.

    Args:
      data: a file's bytes.

    Returns:
      The file without them; None where there is nothing to leave out, or the file is of another format.
    """
    if data.startswith(PNG_SIGNATURE):
        kept = b"".join((PNG_SIGNATURE, *_kept_chunks(data)))
    elif data.startswith(JPEG_SIGNATURE):
        kept = b"".join((data[:2], *_kept_segments(data)))
    else:
        return None
    return None if kept == data else kept


def _kept_chunks(data: bytes) -> Iterator[bytes]:
    """Yields the bytes of the chunks that stay, and whatever follows the last chunk that is whole."""
    start, colour_type, has_pixels = len(PNG_SIGNATURE), -1, False
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        name, end = data[start + 4 : start + 8], start + 12 + length
        is_critical = not name[0] & 0x20
        if not name.isalpha():
            break
        if end > len(data):
            if has_pixels and not is_critical:
                return
            break
        content = memoryview(data)[start + 8 : end - 4]
        if name == b"IHDR" and length >= 10:
            colour_type = content[9]
        has_pixels |= name == b"IDAT"
        if is_critical or _is_needed(
            name, bytes(content[: _MAX_TEXT_BYTES + 1]), length, colour_type, data[end - 4 : end]
        ):
            yield data[start:end]
        start = end
    yield data[start:]


def _is_needed(name: bytes, content: bytes, length: int, colour_type: int, checksum: bytes) -> bool:
    """Returns whether an ancillary chunk decides how the picture looks, and is whole."""
    if length > _MAX_TEXT_BYTES or struct.pack(">I", zlib.crc32(name + content)) != checksum:
        return False
    if name == b"tRNS":
        return length in _TRANSPARENCY_BYTES.get(colour_type, ())
    if name == b"eXIf":
        return True
    keyword, _, text = content.partition(b"\0")
    if keyword not in _TEXT_WITH_ORIENTATION:
        return False
    if name == b"tEXt":
        return True
    if name == b"zTXt":
        return _inflates_to_little(text[1:])
    if name == b"iTXt" and len(text) >= 2:
        return not text[0] or _inflates_to_little(text[2:].partition(b"\0")[2].partition(b"\0")[2])
    return False


def _inflates_to_little(packed: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1)) <= _MAX_TEXT_BYTES
    except zlib.error:
        return False


@dataclass(frozen=True, slots=True)
class _Segment:
    """A marker of a JPEG and what belongs to it.

    Args:
      marker: the second byte of the marker.
      start: where the marker begins; fill bytes before it are counted in.
      content: where its content begins, behind the length.
      end: where the next marker may begin.
    """

    marker: int
    start: int
    content: int
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yields a JPEG's markers in order, up to the end or to what is no marker; of scans, their headers alone."""
    start = 2
    while start < len(data) and data[start] == 0xFF:
        at = start
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at == len(data):
            return
        marker, end = data[at], at + 1
        if marker in _STANDALONE_MARKERS or marker == _END_OF_IMAGE:
            yield _Segment(marker, start, end, end)
        else:
            if at + 3 > len(data):
                return
            end = at + 1 + struct.unpack_from(">H", data, at + 1)[0]
            if end > len(data) or end < at + 3:
                return
            yield _Segment(marker, start, at + 3, end)
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            found = _MARKER_IN_SCAN.search(data, end)
            if found is None:
                return
            end = found.start()
        start = end


def _kept_segments(data: bytes) -> Iterator[bytes]:
    """Yields all of a JPEG behind its first marker but the segments that decoding can do without."""
    done = 2
    for segment in _segments(data):
        content = data[segment.content : segment.end]
        is_application = _APP0 <= segment.marker < _APP0 + 16
        # Adobe's segment says what the colours are; EXIF holds the orientation
        is_needed = (
            segment.marker == _APP14
            and content.startswith(b"Adobe")
            and len(content) >= _ADOBE_BYTES
        ) or (segment.marker == _APP1 and content.startswith(b"Exif\0"))
        if segment.marker == _COMMENT or (is_application and not is_needed):
            yield data[done : segment.start]
            done = segment.end
        if segment.marker == _START_OF_SCAN:
            break
    yield data[done:]


@dataclass(frozen=True, slots=True)
class EndedJpeg:
    """A JPEG to which an end marker was added.

    Args:
      data: its bytes. Whether the picture is complete is not known yet.
      probe: the same with noise before the end marker. A decoder passes over the noise where all pixels came before it,
        and takes it for pixels where some are missing. So the picture is complete where both decode to the same.
    """

    data: bytes
    probe: bytes


def with_end_marker(data: bytes) -> tuple[EndedJpeg, ...]:
    """Returns what a JPEG that ends within its last scan is with an end marker.

    Args:
      data: a file's bytes.

    Returns:
      One way to end it, or two where the last byte is 0xFF, which may be half of the end marker or a byte of
      pixels. There is none where the file is no such JPEG, or where whole scans are missing.
    """
    if not data.startswith(JPEG_SIGNATURE):
        return ()
    segments = list(_segments(data))
    if not segments or segments[-1].marker != _START_OF_SCAN or not _has_all_scans(data, segments):
        return ()
    scan = data[segments[-1].end :]
    restart = bytes((0xFF, 0xD0 + len(_RESTART_MARKER.findall(scan)) % 8))
    ended = data.rstrip(b"\xff")
    ways = (ended,) if ended == data else (ended, data + b"\0")
    return tuple(
        EndedJpeg(way + JPEG_END, way + _NOISE + restart + _NOISE + JPEG_END) for way in ways
    )


def _has_all_scans(data: bytes, segments: list[_Segment]) -> bool:
    """Returns whether the scans that have begun give every coefficient of every component to its last bit."""
    left: dict[int, set[int]] = {}
    is_progressive = False
    for segment in segments:
        content = data[segment.content : segment.end]
        if segment.marker in _START_OF_FRAME and len(content) >= 6:
            is_progressive = segment.marker in _PROGRESSIVE_FRAMES
            left = {
                component: set(range(_COEFFICIENTS)) for component in content[6::3][: content[5]]
            }
        elif segment.marker == _START_OF_SCAN and content:
            count = content[0]
            if len(content) < 4 + 2 * count:
                return False
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            given = range(first, last + 1) if is_progressive else range(_COEFFICIENTS)
            if not is_progressive or not bits & 0x0F:
                for component in content[1 : 1 + 2 * count : 2]:
                    left.get(component, set()).difference_update(given)
    return bool(left) and not any(left.values())
