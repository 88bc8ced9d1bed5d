"""Command line: `python -m inference.training.sam`."""

import sys

from inference.training.sam.train import main

if __name__ == "__main__":
    sys.exit(main())
