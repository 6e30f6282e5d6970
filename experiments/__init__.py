"""Scripts that reproduce the papers: one a paper, one sub-command a table or figure."""

import os
import signal
import sys
from pathlib import Path

if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    # An interrupt ends a script while the rest is loaded, too; then `jc2i.commands.run` sees to it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
