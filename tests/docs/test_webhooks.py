"""The Python of the pages about webhooks: the check of a signature, and the receiver that sends mails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polyjob.engine.webhook_client import send, sign
from polyjob.services.webhooks import new_secret
from polyjob.webhook_urls import parse_url
from tests.docs.blocks import ROOT, blocks_of
from tests.e2e.conftest import eventually


def python_of(page: str) -> str:
    """Return the only Python block of a page."""
    [block] = [block for block in blocks_of(ROOT / "docs" / page) if block.language == "python"]
    return block.text


def test_documented_check_accepts_only_genuine_requests() -> None:
    names: dict[str, Any] = {}
    exec(python_of("webhooks.md"), names)
    secret, body, now = new_secret(), b'{"event": "failed"}', int(time.time())

    def headers(timestamp: int, key: str = secret) -> dict[str, str]:
        signature = sign(key, "0a1b", timestamp, body)
        return {"webhook-id": "0a1b", "webhook-timestamp": str(timestamp), "webhook-signature": signature}

    is_genuine = names["is_genuine"]
    assert is_genuine(headers(now), body, secret)
    assert not is_genuine(headers(now), body + b" ", secret)
    assert not is_genuine(headers(now, new_secret()), body, secret)
    assert not is_genuine(headers(now - 400), body, secret)


@pytest.mark.parametrize(("exit_code", "status"), [(0, 204), (1, 500)])
def test_documented_receiver_sends_a_mail(tmp_path: Path, exit_code: int, status: int) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments; cat > {tmp_path}/mail; exit {exit_code}\n')
    sendmail.chmod(0o755)
    script = tmp_path / "mail.py"
    script.write_text(
        python_of("cookbook.md")
        .replace('("127.0.0.1", 9025), Receiver)', '("127.0.0.1", 0), Receiver)')
        .replace(".serve_forever()", "")
        .replace("http.server.ThreadingHTTPServer", "server = http.server.ThreadingHTTPServer")
        + f"open('{tmp_path}/port.part', 'w').write(str(server.server_port))\n"
        + f"import os; os.rename('{tmp_path}/port.part', '{tmp_path}/port')\nserver.serve_forever()\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, script, "ops@example.org"], env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL
    ) as receiver:
        try:
            eventually((tmp_path / "port").exists)
            url = parse_url(f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/")
            body = json.dumps({"event": "failed", "text": "Job 7 failed"}).encode()
            assert send(url, "0a1b", body, None, allow_private=True).status_code == status
        finally:
            receiver.kill()
    assert (tmp_path / "mail").read_text() == "To: ops@example.org\nSubject: polyjob: failed\n\nJob 7 failed\n"
    assert (tmp_path / "arguments").read_text() == "-t\n"
