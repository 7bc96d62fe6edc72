"""The command ``captioner``, thin over the packages; each subcommand is one file in ``commands``."""

from captioner_core.process.startup import begin_if_main

begin_if_main()
