"""Command line: `python -m inference.training.nnunet`."""

import sys

from inference.training.nnunet.train import main

if __name__ == "__main__":
    sys.exit(main())
