"""An image registry that stores only manifests, and a builder that makes images without files.

The builder runs each `RUN` of its Dockerfile in its own container, and pushes a manifest without layers.
"""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BUILD = r"""
import json, os, subprocess, urllib.request, uuid
for line in open('Dockerfile').read().replace('\\\n', '').splitlines():
    if line.startswith('RUN '):
        code = subprocess.run(json.loads(line[4:])).returncode
        if code:
            raise SystemExit(code)
host, _, path = os.environ['IMAGE'].partition('/')
name, _, tag = path.rpartition(':')
url = f'http://{host}/v2/{name}/manifests/{tag}'
urllib.request.urlopen(urllib.request.Request(url, uuid.uuid4().bytes, method='PUT'), timeout=30)
"""
BUILDER = f"python3 -u -c {shlex.quote(_BUILD)}"
"""The command of the builder, for an image with Python."""


class Registry:
    """A registry on a free port of this machine. `close` ends it."""

    def __init__(self, pushed: Callable[[str], None] = lambda image: None) -> None:
        """`pushed` is called with both names of a new image: with its tag, and with its digest."""
        self.images: dict[str, str] = {}
        """Name → digest."""
        self.tells_digests = True
        self.pushed = pushed
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(200 if self._image() in registry.images else 404, registry.images.get(self._image()))

            def do_PUT(self) -> None:
                manifest = self.rfile.read(int(self.headers["Content-Length"]))
                image, digest = self._image(), f"sha256:{hashlib.sha256(manifest).hexdigest()}"
                for name in (image, f"{image.rpartition(':')[0]}@{digest}"):
                    registry.images[name] = digest
                    registry.pushed(name)
                self._answer(201, digest)

            def _image(self) -> str:
                _, _, rest = self.path.partition("/v2/")
                name, _, tag = rest.partition("/manifests/")
                return f"{registry.host}/{name}{'@' if ':' in tag else ':'}{tag}"

            def _answer(self, status: int, digest: str | None) -> None:
                self.send_response(status)
                if digest and registry.tells_digests:
                    self.send_header("Docker-Content-Digest", digest)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
