"""What captioner computes, without Beam and Airflow. Importing this package loads nothing heavy.

The packages, in the order in which a photograph meets them:

* ``images``: lists the images of a folder and decodes them.
* ``features``: turns pixels into features, by a network such as Xception.
* ``captioning``: turns features into captions, by a trained model.
* ``text``: splits captions into tokens, and encodes them as vectors.
* ``matching``: finds the images with the most similar captions.
* ``runs``: commits, reuses and verifies what the jobs write.
* ``report``: shows a finished run as a page.

How models come to be: ``datasets`` builds training data, ``training`` trains, ``analysis``
measures, ``models`` keeps the current one, and ``weights`` downloads networks that others have
trained.

What all of them use: ``options``, ``tables`` (the columns and paths of every table), ``io``,
``security``, ``process``, ``console`` and ``errors``.
"""

from captioner_core.errors import CaptionerError

__all__ = ["CaptionerError", "__version__"]

__version__ = "0.1.0"
