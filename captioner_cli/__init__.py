"""The command ``captioner``. Each subcommand is a file in ``commands``: parse, call, print."""

from captioner_core.process.startup import begin_if_main

begin_if_main()
