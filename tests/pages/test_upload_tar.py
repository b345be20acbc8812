"""Repacking zip files: damage is the client's fault, other errors are not."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from polyjob.errors import Invalid
from polyjob.pages import upload_tar
from polyjob.storage.uploads import Limits

LIMITS = Limits(size=1 << 20, unpacked=1 << 20, members=10)


def zipped(content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b", content)
    return data.getvalue()


def test_zip_becomes_a_tarball():
    tarball = upload_tar.zip_to_tar(io.BytesIO(zipped(b"text")), io.BytesIO(), LIMITS)
    with tarfile.open(fileobj=tarball) as archive:
        assert archive.getnames() == ["a/b"]
        assert archive.extractfile("a/b").read() == b"text"


def test_damaged_zips_are_invalid():
    """Each byte of the file is damaged in turn; some damage goes unnoticed, such as that of a date."""
    data = zipped(b"text" * 100)
    messages = set()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        try:
            upload_tar.zip_to_tar(io.BytesIO(damaged), io.BytesIO(), LIMITS)
        except Invalid as error:
            messages.add(str(error))
    assert "The zip file is incomplete or damaged." in messages


@pytest.mark.parametrize("error", [ValueError("a defect"), LookupError("a defect"), OSError("a defect")])
def test_own_errors_are_not_reported_as_damage(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
    with pytest.raises(type(error), match="a defect"):
        upload_tar.zip_to_tar(io.BytesIO(zipped(b"text")), io.BytesIO(), LIMITS)
