"""Files that the form for a new job uploads."""

from __future__ import annotations

import dataclasses
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from polyjob.app import create_app
from polyjob.db.models import Job, Project, Upload, User
from polyjob.pages import upload_tar
from polyjob.settings import Settings
from polyjob.storage.store import Store

from .conftest import HTML, ORIGIN, Browser, Html, job_fields

SUBMIT = "/ana/demo/submit"
FIELDS = ["cmd", "image", "steps", "env", "name", "tags", "cpu", "memory", "gpu", "timeout", "config"]


def uploaded_files(settings: Settings) -> dict[str, bytes | str]:
    """Return the files and links of the latest upload."""
    upload = Upload.select().order_by(Upload.id.desc()).get()
    files: dict[str, bytes | str] = {}
    with tarfile.open(Store(settings.data_dir).upload_path(upload.digest)) as archive:
        for info in archive:
            if info.isreg():
                content = archive.extractfile(info)
                assert content
                files[info.name] = content.read()
            elif info.issym():
                files[info.name] = info.linkname
    return files


def zipped(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, target)
    return data.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


class TestFiles:
    FILES = {"train.py": b"print(1)\r\n", "lib/a.txt": b"a" * 200_000, "lib/deep/b": b""}

    def upload(self, ana: Browser, *files: tuple[str, bytes], status: int | None = 303, **typed: str) -> Html:
        sent: Any = ana.form(SUBMIT).fields | {"cmd": "true"} | typed
        sent["upload"] = [FileStorage(io.BytesIO(content), name) for name, content in files]
        boundary, body = encode_multipart(sent)  # the client itself would leave a file open
        kind = f"multipart/form-data; boundary={boundary}"
        return ana.post(SUBMIT, body, status, **{"Content-Type": kind})  # type: ignore[arg-type]

    def test_files_become_the_upload_of_the_job(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, *[(f"mine/{name}", content) for name, content in self.FILES.items()])
        assert uploaded_files(settings) == self.FILES
        assert Job.get_by_id(1).code == Project.get().code
        ana.fill(SUBMIT, cmd="true")
        assert Job.get_by_id(2).code == Job.get_by_id(1).code

    def test_tarball_and_zip_are_accepted(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, ("code.tar.gz", tarred(self.FILES)))
        assert uploaded_files(settings) == self.FILES
        self.upload(ana, ("code.zip", zipped({"x": b"1", "folder/y": b"2"}, {"folder/z": "y"})))
        assert uploaded_files(settings) == {"x": b"1", "folder/y": b"2", "folder/z": "y"}
        self.upload(ana, ("one.py", b"1"))
        assert uploaded_files(settings) == {"one.py": b"1"}
        self.upload(ana, ("a.zip", zipped({"x": b"1"})), ("b.py", b"2"))
        assert set(uploaded_files(settings)) == {"a.zip", "b.py"}

    def test_git_folders_are_left_out(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, ("mine/.git/config", b"secret"), ("mine/.gitignore", b"*"), ("mine/sub/.git/x", b""))
        assert uploaded_files(settings) == {".gitignore": b"*"}

    def test_empty_file_field_makes_no_upload(self, ana: Browser) -> None:
        self.upload(ana, ("", b""), ("", b""))
        assert Upload.select().count() == 0
        assert Job.get_by_id(1).code_id is None

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.tar.gz", b"no tar"),
            ("a.zip", b"PK\3\4 no zip"),
            ("a.zip", zipped({"x": b"1" * 9999})[:-30]),
            ("a.zip", zipped({"../x": b"1"})),
            ("a.zip", zipped({"/x": b"1"})),
            ("a.zip", zipped({"x": b"1"}, {"y": "../../etc/passwd"})),
            ("a.tar.gz", tarred({"../x": b"1"})),
            ("mine/../../x", b"1"),
        ],
        ids=["no tar", "no zip", "cut zip", "zip up", "zip absolute", "zip link", "tar up", "name up"],
    )
    def test_invalid_archives_are_refused(self, ana: Browser, data_dir: Path, name: str, content: bytes) -> None:
        page = self.upload(ana, (name, content), status=400, env="A=1")
        assert "aria-invalid" in page.elements["upload"]
        assert job_fields(page)["env"] == "A=1"
        assert (Job.select().count(), Upload.select().count()) == (0, 0)
        assert not list((data_dir / "code").iterdir())

    @pytest.mark.parametrize(
        ("system", "names", "expected"),
        [
            (0, ["data\\", "src\\main.py", "top.py"], {"src/main.py", "top.py"}),
            (0, ["a\\b\\c.py"], {"a/b/c.py"}),
            (3, ["src\\main.py"], {"src\\main.py"}),
            (0, ["d/odd\\name"], {"d/odd\\name"}),
        ],
        ids=["windows", "windows deep", "unix", "windows with slashes"],
    )
    def test_backslash_separates_folders_only_in_windows_zips(
        self, ana: Browser, settings: Settings, system: int, names: list[str], expected: set[str]
    ) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename, info.create_system = name, system
                archive.writestr(info, b"" if name.endswith("\\") else b"1")
        self.upload(ana, ("win.zip", data.getvalue()))
        assert set(uploaded_files(settings)) == expected

    def test_zip_of_overlapping_members_is_refused(self, ana: Browser) -> None:
        content = zlib.compress(bytes(1 << 20), 9)[2:-4]
        sizes = (zlib.crc32(bytes(1 << 20)), len(content), 1 << 20, 1, 0)
        member = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0x21, *sizes)
        entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0x21, *sizes, 0, 0, 0, 0, 0) + b"x"
        directory = 40 * entry
        body = member + b"x" + content
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 40, 40, len(directory), len(body), 0)
        assert "overlap" in self.upload(ana, ("a.zip", body + directory + end), status=400).text

    def test_encrypted_zip_is_refused(self, ana: Browser) -> None:
        data = bytearray(zipped({"x": b"1"}))
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            position = data.rfind(magic)
            data[position + offset] |= 1
        assert "encrypted" in self.upload(ana, ("a.zip", bytes(data)), status=400).text

    def test_zip_with_a_wrong_size_is_refused(self, ana: Browser) -> None:
        data = bytearray(zipped({"x": b"1"}))
        data[data.rfind(b"PK\1\2") + 24] = 5
        assert "incomplete or damaged" in self.upload(ana, ("a.zip", bytes(data)), status=400).text

    @pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_zip_with_unbounded_decompression_is_refused(self, ana: Browser, packed: int) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", packed) as archive:
            archive.writestr("x", b"1")
        assert "send a tar.gz" in self.upload(ana, ("a.zip", data.getvalue()), status=400).text

    def test_link_target_in_a_zip_takes_bounded_memory(self, ana: Browser) -> None:
        content = zipped({"x": b"1"}, {"y": "x" * (64 << 20)})
        tracemalloc.start()
        self.upload(ana, ("a.zip", content), status=None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 32 << 20

    def test_uploads_have_limits(
        self, settings: Settings, ana: Browser, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = dataclasses.replace(settings, unpacked_limit=1000, unpacked_files=5, upload_limit=100_000)
        ana = Browser(create_app(small)).sign_in(user)
        for name, content, why in (
            ("bomb.zip", zipped({"x": b"0" * 2000}), "larger than 1000 bytes"),
            ("many.zip", zipped({str(number): b"" for number in range(9)}), "more than 5 members"),
            ("large.py", b"0" * 2000, "larger than 1000 bytes"),
        ):
            assert why in self.upload(ana, (name, content), status=400).text
        page = self.upload(ana, ("a.tar.gz", b"\x1f\x8b" + b"x" * 200_000), status=413)
        assert "larger than 100000 bytes" in page.text
        assert "larger than 100000 bytes" in self.upload(ana, ("x", b"0" * 2_000_000), status=413).text
        many = [(str(number), b"") for number in range(200)]
        assert "more than 5 files" in self.upload(ana, *many, status=413).text
        monkeypatch.setattr(upload_tar, "MAX_ZIP_DIRECTORY_BYTES", 10)
        assert "too many members" in self.upload(ana, ("a.zip", zipped({"x": b""})), status=400).text
        assert Upload.select().count() == 0

    def test_fields_have_a_size_limit(self, ana: Browser) -> None:
        self.upload(ana, ("x", b"1"), status=413, cmd="x" * (2 << 20))

    def test_files_must_be_chosen_again_after_an_error(self, ana: Browser) -> None:
        page = self.upload(ana, ("x", b"1"), status=400, timeout="soon")
        assert "Choose the files again" in page.text
        assert Upload.select().count() == 0

    @pytest.mark.parametrize("body", [b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb"])
    def test_incomplete_form_is_refused(self, ana: Browser, body: bytes) -> None:
        headers = {"Accept": HTML, "Origin": ORIGIN, "Content-Type": "multipart/form-data; boundary=x"}
        assert ana.http.post(SUBMIT, data=body, headers=headers).status_code == 400
        headers["Content-Type"] = "multipart/form-data"
        assert ana.http.post(SUBMIT, data=body, headers=headers).status_code == 400

    def test_no_temporary_files_remain(self, ana: Browser, data_dir: Path) -> None:
        before = {path.name for path in data_dir.iterdir()}
        self.upload(ana, ("a", b"1"), ("b", b"2"))
        assert {path.name for path in data_dir.iterdir()} == before
