"""`python -m exeunit.runtimes.wasm`: the runtime's command line."""

import sys

from exeunit.runtimes.wasm.cli import main

sys.exit(main(sys.argv[1:]))
