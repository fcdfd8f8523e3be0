"""`python -m extract`."""

import sys

from extract.app import main

sys.exit(main())
