"""`python -m polyjob`: the command line, where Python is new enough for it."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  a checkout is also run by what nothing installed it with
    sys.exit("polyjob: Python 3.11 or newer is needed; this is " + sys.version.split()[0])

from polyjob.cli import main

main()
