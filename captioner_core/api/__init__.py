"""The functions for Python programs; ``captioner_core`` exports all of them.

Each module holds the functions that need the same libraries, so that reading a run, for example,
does not load TensorFlow:

* ``images`` lists the images of a folder.
* ``captions`` captions images.
* ``search`` encodes texts and searches captions by a sentence.
* ``similar`` finds the images most similar to one image.
* ``runs`` reads and verifies a finished run.
"""
