"""Lists the images of a folder."""

from collections.abc import Sequence

from captioner_core.api.arguments import StrPath, as_uri
from captioner_core.errors import CaptionerError
from captioner_core.images.remote_listing import list_entries
from captioner_core.tables.schemas import FailureRow, ImageRef


def list_images(folder: StrPath, *, exclude: Sequence[str] = ()) -> list[str]:
    """Returns the image files below a folder, as ``captioner run`` finds them.

    Subfolders are searched. Hidden files, links that leave the folder and files without an image's
    suffix are left out.

    >>> import captioner_core
    >>> captioner_core.list_images("photos")
    ['.../photos/beach.jpg', '.../photos/dog.png']

    Args:
      folder: The local path or URI of the folder.
      exclude: Shell patterns of files and folders to leave out, such as ``*_thumb.jpg`` or
        ``raw/``. A pattern with a slash is compared with the path below the folder, any other with
        the name.

    Returns:
      The paths or URIs of the images, sorted by name within each folder.

    Raises:
      CaptionerError: The folder or one of its subfolders cannot be listed.
    """
    images: list[str] = []
    for entry in list_entries(as_uri("folder", folder), exclude):
        if isinstance(entry, ImageRef):
            images.append(entry.image_uri)
        elif isinstance(entry, FailureRow):
            raise CaptionerError(
                f"folder {entry.image_uri!r}: {entry.error_message}; mend it, or exclude it"
            )
    return images
