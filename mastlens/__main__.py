"""``python -m mastlens``: the command line."""

import sys

from mastlens.cli import main

if __name__ == "__main__":
    sys.exit(main())
