"""`python -m zoo` is `python run.py`."""

import sys

from zoo.commands import main

sys.exit(main())
