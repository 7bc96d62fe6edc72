"""Protection against untrusted input.

Which module answers which question:

* ``allowed_roots``: May this path or URI be read and written at all?
* ``uris``: What does this path or URI name, and does it name anything that captioner can reach?
* ``paths``: Does this name stay below its folder?
* ``archives``: Is this zip archive safe to unpack?
* ``redaction``: How is text shown without secrets and without control characters?
"""
