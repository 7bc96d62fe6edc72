"""The subcommands of ``captioner``, one file each, each with ``register(subparsers)``."""
