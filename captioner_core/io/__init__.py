"""Reading and writing of files.

Which module answers which question:

* ``storage``: How is a file or table read or written, whether it is local or in an object store?
* ``outputs``: May captioner write to this folder or file? Nothing that captioner did not make is
  replaced or deleted.
* ``junk``: Which files in a folder belong to the system and are neither images nor tables?
* ``temporary_names``: What is a file called while it is being written?
* ``arrays``: How are arrays stored that are too large to be read into memory?
* ``tensors``: How is a file of weights read that may come from somebody else?
* ``json_text``: How is JSON parsed that may come from somebody else?
* ``ordered_map``: How are files read ahead of the code that needs them?
"""
