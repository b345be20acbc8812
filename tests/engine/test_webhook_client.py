"""One request to a receiver: its signature, and each way in which it can fail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import subprocess
import threading
import time

import pytest

from polyjob.engine import webhook_client
from polyjob.engine.webhook_client import send
from polyjob.webhook_urls import parse_url
from tests.simulators.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"event": "failed"}'


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for `localhost` that no authority has signed, and its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture
def secure_receiver(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Receiver(context) as receiver:
        receiver.url = receiver.url.replace("127.0.0.1", "localhost")
        yield receiver


def post(url, secret=SECRET, allow_private=True):
    return send(parse_url(url), "0a1b", BODY, secret, allow_private=allow_private)


def test_request_is_signed_as_standard_webhooks_specifies(receiver):
    assert post(receiver.url).error is None
    request = receiver.received[0]
    assert (request.content, request.path) == (BODY, "/hook/T0P53CR3T-ab12")
    assert request.headers["content-type"] == "application/json"
    timestamp = request.headers["webhook-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = b".".join([b"0a1b", timestamp.encode(), BODY])
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.headers["webhook-id"] == "0a1b"


def test_request_without_secret_is_not_signed(receiver):
    post(receiver.url, secret=None)
    assert "webhook-signature" not in receiver.received[0].headers


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_error_status_is_a_failure(receiver, status):
    receiver.status, receiver.response = status, b"no"
    attempt = post(receiver.url)
    assert (attempt.status_code, attempt.response, attempt.error) == (status, "no", f"The receiver responded {status}.")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(receiver, status):
    with Receiver() as target:
        receiver.status, receiver.location = status, target.url
        attempt = post(receiver.url)
        assert attempt.error == f"The receiver responded {status}; redirects are not followed."
        assert target.received == []


def test_hanging_receiver_is_a_failure(receiver, monkeypatch):
    monkeypatch.setattr(webhook_client, "RESPONSE_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        attempt = post(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert attempt.error == "The receiver did not respond in time."


def test_receiver_that_answers_byte_by_byte_is_cut_off(receiver, monkeypatch):
    monkeypatch.setattr(webhook_client, "RESPONSE_TIMEOUT_SECONDS", 0.3)

    def drip(handler):
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.05)
        return False

    receiver.act = drip
    assert post(receiver.url).error == "The receiver did not respond in time."


def test_hanging_request_is_interrupted_at_the_end_of_the_engine(receiver):
    arrived, attempts = threading.Event(), []
    receiver.act = lambda handler: arrived.set() or bool(handler.rfile.read(1))  # waits for the end of the connection
    sender = threading.Thread(target=lambda: attempts.append(post(receiver.url)))
    sender.start()
    assert arrived.wait(10)
    webhook_client.interrupt_all()
    sender.join()
    assert attempts[0].error is not None


def test_receiver_that_closes_is_a_failure(receiver):
    receiver.act = lambda handler: False
    assert post(receiver.url).error == "The receiver closed the connection or sent no valid response."


def test_receiver_that_does_not_listen_is_a_failure():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert post(f"http://127.0.0.1:{port}/").error == "The receiver refused the connection."


def test_unknown_host_is_a_failure(monkeypatch):
    def fail(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert post("http://receiver.example/x").error == "The host name could not be resolved."


def test_untrusted_certificate_is_a_failure(secure_receiver):
    error = post(secure_receiver.url).error
    assert error == "The certificate of the receiver is not valid: self-signed certificate."
    assert secure_receiver.received == []


def test_certificate_of_another_host_is_a_failure(secure_receiver, certificate, monkeypatch):
    trust(certificate, monkeypatch)
    error = post(secure_receiver.url.replace("localhost", "127.0.0.1")).error
    assert error.startswith("The certificate of the receiver is not valid: IP address mismatch")


def test_trusted_certificate_is_accepted(secure_receiver, certificate, monkeypatch):
    trust(certificate, monkeypatch)
    assert post(secure_receiver.url).error is None
    assert secure_receiver.received[0].content == BODY


def trust(certificate, monkeypatch):
    context = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(webhook_client, "_tls", lambda: context)


# Private addresses.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_private_address_gets_no_request(receiver, host):
    attempt = post(receiver.url.replace("127.0.0.1", host), allow_private=False)
    assert attempt.error == "The host has a private address, and this server sends webhooks only to public ones."
    assert receiver.received == []


def resolve_to(monkeypatch, *answers):
    """Let each look-up of a name return the next of these lists of addresses."""
    lookups = []
    original = socket.getaddrinfo

    def look_up(host, port, *arguments, **options):
        if host != "receiver.example":
            return original(host, port, *arguments, **options)
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers[len(lookups) - 1]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return lookups


def test_name_with_one_private_address_is_refused(receiver, monkeypatch):
    resolve_to(monkeypatch, ["1.1.1.1", "127.0.0.1"])
    url = f"http://receiver.example:{receiver.port}/"
    assert "private address" in post(url, allow_private=False).error
    assert receiver.received == []


def test_name_that_changes_its_address_is_resolved_once(receiver, monkeypatch):
    lookups = resolve_to(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    connected = []

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert post(f"http://receiver.example:{receiver.port}/", allow_private=False).error
    assert connected == [("93.184.216.34", receiver.port)]
    assert len(lookups) == 1


def test_next_address_is_tried_if_one_refuses(receiver, monkeypatch):
    resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert post(f"http://receiver.example:{receiver.port}/a").error is None
    assert receiver.received[0].headers["host"] == f"receiver.example:{receiver.port}"
