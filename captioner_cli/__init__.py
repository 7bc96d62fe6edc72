"""The command ``captioner``, thin over the packages; each subcommand is one file in ``commands``."""
