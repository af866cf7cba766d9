"""python -m trimask"""

import sys

from trimask.cli import main

sys.exit(main())
