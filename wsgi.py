"""The web application, for `gunicorn wsgi:app`."""

from polyjob.serve import web

app = web()
