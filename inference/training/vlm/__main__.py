"""Command line: `python -m inference.training.vlm`."""

import sys

from inference.training.vlm.train import main

if __name__ == "__main__":
    sys.exit(main())
