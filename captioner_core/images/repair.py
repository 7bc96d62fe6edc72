"""Repairs image files that browsers show and Pillow refuses, without changing any pixel.

Two faults are repaired. Parts of a file that don't affect its pixels, such as comments, profiles
and previews, may be broken or very large; they are removed. A JPEG may lack its end marker; it is
added.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"

# Longest text of a PNG that is kept for the orientation in it; XMP and EXIF blocks are shorter.
_MAX_TEXT_BYTES = 65_536
_TEXT_WITH_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
# Valid sizes of the chunk tRNS by the image's colour type (PNG specification, 11.3.2.1).
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}

# Markers of JPEG (ITU-T T.81, table B.1), without their first byte 0xFF.
_STANDALONE_MARKERS = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_COMMENT = 0xFE
_APP0 = 0xE0
_APP1 = 0xE1
_APP14 = 0xEE
_ADOBE_BYTES = 12
_COEFFICIENTS = 64
_MARKER_IN_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")
# Pseudo-random bytes that no decoder can take for the rest of a picture, without 0xFF, which would
# begin a marker.
_NOISE = bytes((number * number * 2_654_435_761 >> 13) % 255 for number in range(1, 4097))


def without_optional_parts(data: bytes) -> bytes | None:
    """Returns a PNG or JPEG without the parts that affect neither pixels nor orientation.

    A PNG keeps its critical chunks, broken or not. Of its other chunks, it keeps transparency, EXIF
    and short texts that may hold the orientation, provided that their checksum is right.

    Args:
      data: content of the file.

    Returns:
      The smaller file, or None if there is nothing to remove or the file has another format.
    """
    if data.startswith(PNG_SIGNATURE):
        kept = b"".join((PNG_SIGNATURE, *_kept_chunks(data)))
    elif data.startswith(JPEG_SIGNATURE):
        kept = b"".join((data[:2], *_kept_segments(data)))
    else:
        return None
    return None if kept == data else kept


def _kept_chunks(data: bytes) -> Iterator[bytes]:
    """Yields the bytes of a PNG's chunks to keep, and whatever follows the last complete chunk."""
    start = len(PNG_SIGNATURE)
    colour_type = -1
    has_pixels = False
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        name = data[start + 4 : start + 8]
        end = start + 12 + length
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
    """Returns whether an ancillary chunk is undamaged and affects how the picture looks."""
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
    """Returns whether compressed text is valid and short."""
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1)) <= _MAX_TEXT_BYTES
    except zlib.error:
        return False


@dataclass(frozen=True, slots=True)
class _Segment:
    """A marker of a JPEG with its content.

    Args:
      marker: the second byte of the marker.
      start: position of the marker, including the fill bytes before it.
      content: position of the content, behind the length.
      end: position of the next marker; for a scan, of its compressed data.
    """

    marker: int
    start: int
    content: int
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yields a JPEG's segments in order, until the end of the image or damage.

    Of a scan, the segment is the header only, without the compressed data.
    """
    start = 2
    while start < len(data) and data[start] == 0xFF:
        code = start  # skips the fill bytes, which are 0xFF too
        while code < len(data) and data[code] == 0xFF:
            code += 1
        if code == len(data):
            return
        marker = data[code]
        end = code + 1
        if marker in _STANDALONE_MARKERS or marker == _END_OF_IMAGE:
            yield _Segment(marker, start, end, end)
        else:
            if code + 3 > len(data):
                return
            end = code + 1 + struct.unpack_from(">H", data, code + 1)[0]
            if end > len(data) or end < code + 3:
                return
            yield _Segment(marker, start, code + 3, end)
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            next_marker = _MARKER_IN_SCAN.search(data, end)
            if next_marker is None:
                return
            end = next_marker.start()
        start = end


def _kept_segments(data: bytes) -> Iterator[bytes]:
    """Yields a JPEG's bytes behind its first marker, without the segments that can be removed."""
    done = 2
    for segment in _segments(data):
        if _is_removable(segment, data[segment.content : segment.end]):
            yield data[done : segment.start]
            done = segment.end
        if segment.marker == _START_OF_SCAN:
            break
    yield data[done:]


def _is_removable(segment: _Segment, content: bytes) -> bool:
    """Returns whether a segment affects neither the colours nor the orientation."""
    if segment.marker == _COMMENT:
        return True
    if segment.marker == _APP1:
        return not content.startswith(b"Exif\0")  # EXIF holds the orientation
    if segment.marker == _APP14:  # Adobe's segment states the colour space
        return not content.startswith(b"Adobe") or len(content) < _ADOBE_BYTES
    return _APP0 <= segment.marker < _APP0 + 16


@dataclass(frozen=True, slots=True)
class EndedJpeg:
    """A JPEG to which an end marker was added, and a copy that tells whether it is complete.

    The copy has noise before the end marker. A decoder ignores the noise if all pixels came before
    it, and takes it for pixels if some are missing. So the picture is complete if both files decode
    to the same pixels.

    Args:
      data: the JPEG with an end marker.
      probe: the JPEG with noise and an end marker.
    """

    data: bytes
    probe: bytes


def with_end_marker(data: bytes) -> tuple[EndedJpeg, ...]:
    """Returns the possible repairs of a JPEG that ends within its last scan.

    Args:
      data: content of the file.

    Returns:
      One repair, or two if the last byte is 0xFF, which may be half of the end marker or belong to
      the pixels. The tuple is empty if the file is not such a JPEG, or if whole scans are missing.
    """
    if not data.startswith(JPEG_SIGNATURE):
        return ()
    segments = list(_segments(data))
    if not segments or segments[-1].marker != _START_OF_SCAN or not _has_all_scans(data, segments):
        return ()
    scan = data[segments[-1].end :]
    restart = bytes((0xFF, 0xD0 + len(_RESTART_MARKER.findall(scan)) % 8))
    without_half = data.rstrip(b"\xff")
    candidates = [without_half]
    if without_half != data:
        candidates.append(data + b"\0")  # 0xFF 0x00 is how a scan writes the byte 0xFF
    return tuple(
        EndedJpeg(candidate + JPEG_END, candidate + _NOISE + restart + _NOISE + JPEG_END)
        for candidate in candidates
    )


def _has_all_scans(data: bytes, segments: list[_Segment]) -> bool:
    """Returns whether the scans so far cover every coefficient of every component to its last bit.

    A progressive JPEG (ITU-T T.81, annex G) spreads the coefficients, and their bits, over several
    scans. Any other scan holds all coefficients of its components.
    """
    missing: dict[int, set[int]] = {}  # coefficients of each component that no scan has completed
    is_progressive = False
    for segment in segments:
        content = data[segment.content : segment.end]
        if segment.marker in _START_OF_FRAME and len(content) >= 6:
            is_progressive = segment.marker in _PROGRESSIVE_FRAMES
            components = content[6::3][: content[5]]
            missing = {component: set(range(_COEFFICIENTS)) for component in components}
        elif segment.marker == _START_OF_SCAN and content:
            count = content[0]
            if len(content) < 4 + 2 * count:
                return False
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            covered = range(first, last + 1) if is_progressive else range(_COEFFICIENTS)
            # The low half of the last byte counts the bits that later scans still have to add.
            if not is_progressive or not bits & 0x0F:
                for component in content[1 : 1 + 2 * count : 2]:
                    missing.get(component, set()).difference_update(covered)
    return bool(missing) and not any(missing.values())
