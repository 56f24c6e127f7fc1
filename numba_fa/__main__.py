"""`python -m numba_fa` is `numba-fa`."""

import sys

from numba_fa.cli import main

sys.exit(main())
