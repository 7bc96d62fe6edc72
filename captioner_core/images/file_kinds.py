"""Recognizes by its first bytes what a file contains, so that a failure can name it."""

import struct

_BOX_BRANDS = {
    "HEIC": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"),
    "HEIF": (b"mif1", b"msf1", b"mif2", b"avci", b"jpeg"),
    "a Canon raw file (CR3)": (b"crx ",),
    "JPEG XL": (b"jxl ",),
    "a QuickTime video": (b"qt  ",),
    "an audio file (MPEG-4)": (b"M4A ", b"M4B ", b"M4P "),
}
"""Brands in the ISO base media file format (ISO/IEC 14496-12); all other brands mean a video."""
_AVIF_BRANDS = (b"avif", b"avis")
_MAX_BRANDS = 64

_MAGIC = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"II\x1a\0\0\0HEAPCCDR", "a Canon raw file (CRW)"),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw file (RAF)"),
    (b"IIRO", "an Olympus raw file (ORF)"),
    (b"IIRS", "an Olympus raw file (ORF)"),
    (b"MMOR", "an Olympus raw file (ORF)"),
    (b"IIU\0", "a Panasonic raw file (RW2)"),
    (b"FOVb", "a Sigma raw file (X3F)"),
    (b"\0MRM", "a Minolta raw file (MRW)"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\0\0\x01\xba", "an MPEG video"),
    (b"\0\0\x01\xb3", "an MPEG video"),
    (b"FLV\x01", "a Flash video"),
    (b"0&\xb2u\x8ef\xcf\x11", "a Windows Media video"),
    (b"OggS", "an Ogg video or audio file"),
    (b"ID3", "an audio file (MP3)"),
    (b"version https://git-lfs", "a Git LFS pointer, whose content was not fetched"),
    (b"\0\x05\x16\x07", "an AppleDouble file of macOS"),
    (b"\0\x05\x16\0", "an AppleSingle file of macOS"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "Parquet"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "HDF5"),
    (b"SIMPLE  =", "FITS"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document"),
    (b"{\\rtf", "a rich text document"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"v/1\x01", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\0\0\x02\0", "a cursor (CUR)"),
    (b"icns", "an icon (ICNS)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"\x01\0\0\0l\0\0\0", "a Windows metafile"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"))
_RIFF_KINDS = {b"AVI ": "an AVI video", b"WAVE": "an audio file (WAV)"}
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# Tags of TIFF and DNG.
_COMPRESSION = 259
_MAKE = 271
_SUB_IFDS = 330
_DNG_VERSION = 50706
_RAW_COMPRESSIONS = {
    34713: "a Nikon raw file (NEF)",
    32767: "a Sony raw file (ARW)",
    65535: "a Pentax raw file (PEF)",
}
_RAW_MAKERS = {
    b"nikon": "a Nikon raw file (NEF)",
    b"sony": "a Sony raw file (ARW)",
    b"pentax": "a Pentax raw file (PEF)",
    b"canon": "a Canon raw file (TIF or CR2)",
}
_MAX_TIFF_TAGS = 512


def kind_of(data: bytes) -> str | None:
    """Returns what a file contains that is not an image of a supported format.

    >>> kind_of(b"%PDF-1.7"), kind_of(b"hello"), kind_of(bytes(600))
    ('PDF', 'text', None)

    Args:
      data: content of the file.

    Returns:
      A noun with its article, such as ``HEIC`` or ``a Canon raw file (CR2)``; None if the content
      is not recognized.
    """
    if data[4:8] == b"ftyp":
        return None if is_avif(data) else _box_kind(data)
    if data[:4] == b"RIFF" and data[8:12] in _RIFF_KINDS:
        return _RIFF_KINDS[data[8:12]]
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and data[:1] == b"\0":
        return "a QuickTime video"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[128:132] == b"DICM":
        return "DICOM"
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, name in _MARKUP:
        if text.startswith(magic):
            return "SVG" if name == "XML" and b"<svg" in text else name
    return raw_kind_of_tiff(data) or ("text" if _is_text(data[:512]) else None)


def is_avif(data: bytes) -> bool:
    """Returns whether a file is AVIF.

    Its main brand says so, or a compatible brand does if the main brand is that of HEIF.
    """
    if data[4:8] != b"ftyp":
        return False
    main, *others = _brands(data)
    return main in _AVIF_BRANDS or (
        main in _BOX_BRANDS["HEIF"] and any(brand in _AVIF_BRANDS for brand in others)
    )


def _brands(data: bytes) -> list[bytes]:
    """Returns the main brand of the box ``ftyp``, followed by the compatible brands."""
    size = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MAX_BRANDS)
    starts = range(16, min(size, len(data)), 4)
    return [data[8:12], *(data[start : start + 4] for start in starts)]


def _box_kind(data: bytes) -> str:
    main, *others = _brands(data)
    if main in _BOX_BRANDS["HEIF"] and any(brand in _BOX_BRANDS["HEIC"] for brand in others):
        return "HEIC"
    return next(
        (name for name, brands in _BOX_BRANDS.items() if main in brands), "a video (MPEG-4)"
    )


def raw_kind_of_tiff(data: bytes) -> str | None:
    """Returns the kind of raw file that a TIFF is, or None for any other file.

    The raw files of many camera makers have the form of a TIFF whose first picture is a preview.
    """
    order = _TIFF_ORDERS.get(data[:4])
    if order is None:
        return None
    if data[8:10] == b"CR":
        return "a Canon raw file (CR2)"
    tags = _first_tags(data, order)
    if _DNG_VERSION in tags:
        return "a raw file in Adobe's format (DNG)"
    compression = tags.get(_COMPRESSION, b"")[:2]
    if len(compression) == 2:
        (code,) = struct.unpack(f"{order}H", compression)
        if code in _RAW_COMPRESSIONS:
            return _RAW_COMPRESSIONS[code]
    if _SUB_IFDS not in tags or _MAKE not in tags:
        return None
    (start,) = struct.unpack(f"{order}I", tags[_MAKE])
    maker = data[start : start + 64].partition(b"\0")[0].lower()
    kinds = (name for prefix, name in _RAW_MAKERS.items() if maker.startswith(prefix))
    return next(kinds, "a camera's raw file")


def _first_tags(data: bytes, order: str) -> dict[int, bytes]:
    """Returns the four bytes that hold or locate the value of each tag in the first directory.

    Args:
      data: content of a TIFF.
      order: the byte order, as ``struct`` writes it.
    """
    if len(data) < 8:
        return {}
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    if directory + 2 > len(data):
        return {}
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    # An entry has 12 bytes: tag, type, number of values, and their position or the value itself.
    first = directory + 2
    end = min(first + 12 * min(count, _MAX_TIFF_TAGS), len(data) - 11)
    return {
        struct.unpack_from(f"{order}H", data, entry)[0]: data[entry + 8 : entry + 12]
        for entry in range(first, end, 12)
    }


def _is_text(start: bytes) -> bool:
    if start.startswith(_BYTE_ORDER_MARKS):
        return True
    return bool(start) and b"\0" not in start and start.isascii()
