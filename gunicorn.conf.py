"""gunicorn reads this by itself in the folder it is started in: `gunicorn wsgi:app` serves polyjob, engine included."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from polyjob.server.gunicorn import *  # noqa: F403
