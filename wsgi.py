"""The web application, for `gunicorn wsgi:app`."""

from polyjob.server.serve import web

app = web()
