"""The process itself: how it starts and ends, and how its errors are reported.

Which module answers which question:

* ``startup``: What does Python import first, so that a signal never causes a traceback?
* ``program``: How does every command start and end, and which exit code does it return?
* ``interrupts``: What happens on Ctrl-C or a request to end?
* ``streams``: What happens if stdout or stderr is closed, full, or cannot show a letter?
* ``error_lines``: Which line does a user see for an error?
* ``environment``: Which conditions are checked before work starts?
* ``temporary_folder``: Where are temporary files, and who deletes them?
* ``cache_folder``: Where are downloaded files kept?
* ``processors``: How many processors may this process use?
* ``tensorflow_setup``: How are TensorFlow and Keras imported?
"""
