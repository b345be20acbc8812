"""gunicorn reads this file in the folder it is started in, so that `gunicorn wsgi:app` also runs the engine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from polyjob.server.gunicorn import *  # noqa: F403
