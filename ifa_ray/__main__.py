"""`python -m ifa_ray`; knows only where the command line is."""

import sys

from ifa_ray.cli import main

sys.exit(main())
