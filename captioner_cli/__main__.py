"""``python -m captioner_cli``: the same as ``captioner``."""

import sys

from captioner_cli.main import main

sys.exit(main())
