"""`python -m polyjob`: the command line, where Python is new enough for it."""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036  a checkout is also run by what nothing installed it with
    sys.exit("polyjob: Python 3.11 or newer is needed; this is " + sys.version.split()[0])

if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]  # the folder that it is started in, which may be anybody's: nothing is imported from there

from polyjob.cli import main

main()
