"""`python -m micota_lf` is the `micota` command."""

import sys

from .cli.main import main

sys.exit(main())
