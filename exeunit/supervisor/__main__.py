"""`python -m exeunit.supervisor`: the supervisor's command line."""

import sys

from exeunit.supervisor.cli import main

sys.exit(main(sys.argv[1:]))
