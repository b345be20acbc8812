"""The web application, for `gunicorn wsgi:app`."""

from polyjob.server.web_app import web

app = web()
