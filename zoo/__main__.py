"""`python -m zoo` is `python run.py`."""

import sys

from zoo.interruption import Interruption

with Interruption():
    from zoo.commands import main

    sys.exit(main())
