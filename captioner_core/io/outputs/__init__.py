"""Output folders and files: captioner replaces and deletes only the files that it made.

Which module answers which question:

* ``marker``: Which files in this folder did captioner make? The marker file ``.captioner-files``
  lists them.
* ``paths``: Can this path be written, and is it different from everything that the command reads?
* ``folder``: May captioner write to this folder, and how do new files get into it?
  ``check_output_folder`` refuses a folder before any work; ``OutputFolder`` writes one.
* ``single_file``: May captioner replace this file, and how? ``check_output_file`` refuses a file
  before any work; ``replacing`` writes one.

Three rules hold everywhere:

1. A file is replaced or deleted only if the marker lists it, or its content says that captioner
   made it. Links are never followed to do so.
2. New files are written under temporary names or in a staging folder, and then renamed. A file that
   is shared with another name (a hard link) is therefore never written to.
3. A process may be killed at any moment. The next one finds either the old content or an unfinished
   output, and a marker that lists everything that captioner created.

Importing this package loads nothing heavy, because the listing of images needs it.
"""

from captioner_core.io.json_text import parse_object
from captioner_core.io.outputs.folder import (
    Adopt,
    OutputFolder,
    check_output_folder,
    earlier_files,
)
from captioner_core.io.outputs.marker import MARKER, PROGRAM, format_marker, parse_marker
from captioner_core.io.outputs.paths import (
    Inputs,
    check_reachable,
    is_same_or_below,
    make_folders,
)
from captioner_core.io.outputs.single_file import (
    PNG_SOFTWARE,
    check_output_file,
    is_own_picture,
    replacing,
)
from captioner_core.io.temporary_names import is_temporary_name

__all__ = [
    "MARKER",
    "PNG_SOFTWARE",
    "PROGRAM",
    "Adopt",
    "Inputs",
    "OutputFolder",
    "check_output_file",
    "check_output_folder",
    "check_reachable",
    "earlier_files",
    "format_marker",
    "is_own_picture",
    "is_same_or_below",
    "is_temporary_name",
    "make_folders",
    "parse_marker",
    "parse_object",
    "replacing",
]
