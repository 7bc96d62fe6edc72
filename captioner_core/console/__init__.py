"""What a person sees on the command line: options and their errors, and progress.

* ``arguments``: How does every command parse its options and start?
* ``progress``: How does a job show how far it is?
"""
