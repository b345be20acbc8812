"""Responses reach the WSGI server as werkzeug would send them."""

from __future__ import annotations

import flask
import pytest
from werkzeug.test import create_environ, run_wsgi_app

from polyjob.api.responses import Response

RESPONSES = {
    "text": lambda: Response("täxt", 201, mimetype="application/json", headers={"ETag": '"a"'}),
    "bytes": lambda: Response(b"ab"),
    "empty": lambda: Response(status=200),
    "without a body": lambda: Response(status=204),
    "unchanged": lambda: Response("ab", 304, headers={"ETag": '"a"'}),
    "redirect": lambda: Response("ab", 302, headers={"Location": "/ä b"}),
    "content location": lambda: Response("ab", headers={"Content-Location": "/ä"}),
    "without a length": lambda: _without_length(Response("ab")),
    "parts": lambda: Response([b"a", "b"]),
    "stream": lambda: Response(part for part in ("a", "b")),
    "error": lambda: Response("ab", 500),
}


def _without_length(response):
    del response.headers["Content-Length"]
    return response


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("make", RESPONSES.values(), ids=RESPONSES)
def test_response_equals_that_of_werkzeug(make, method):
    plain = make()
    plain.__class__ = flask.Response
    sent, expected = [run_wsgi_app(app, create_environ("/", method=method)) for app in (make(), plain)]
    assert (b"".join(sent[0]), *sent[1:]) == (b"".join(expected[0]), *expected[1:])


def test_response_runs_its_closing_functions():
    closed = []
    response = Response("ab")
    response.call_on_close(lambda: closed.append(True))
    body, _, _ = run_wsgi_app(response, create_environ("/"))
    body.close()
    assert closed == [True]
