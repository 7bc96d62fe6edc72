"""The version of captioner, in a module of its own so that any other module may state it."""

VERSION = "0.1.0"
