"""A job by form, its files, and the lines of a terminal that do the same."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
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

from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.app import create_app
from polyjob.cli.origins import Origins
from polyjob.cli.run import job_body
from polyjob.cli.run import run as cli_run
from polyjob.db.database import write
from polyjob.db.models import Job, Project, Upload, User
from polyjob.pages import upload_tar
from polyjob.pages.forms import Form
from polyjob.pages.job_commands import curl_commands, run_command
from polyjob.pages.job_form import read_job
from polyjob.services import projects
from polyjob.settings import Settings
from polyjob.storage.store import Store

from .conftest import EVIL, HTML, ORIGIN, Browser, Html

SUBMIT = "/ana/demo/submit"
FIELDS = ["cmd", "image", "steps", "env", "name", "tags", "cpu", "memory", "gpu", "timeout", "config"]


def form_of(page: Html) -> dict[str, str]:
    return next(form.fields for form in page.forms if "cmd" in form.fields)


class TestFields:
    def test_make_a_job(self, ana: Browser) -> None:
        typed = {
            "cmd": "python train.py\r\necho 'done'",
            "image": "python:3.12-slim",
            "steps": "pip install six\r\n\r\npip install flask\r\n",
            "env": "A=1\r\nB=x = y\r\n",
            "name": "train",
            "tags": "nightly, gpu",
            "cpu": "500m",
            "memory": "1Gi",
            "timeout": "90",
        }
        ana.fill(SUBMIT, **typed)
        assert ana.location == "/ana/demo/jobs/1"
        assert "Job 1 was submitted." in ana.get("/ana/demo/jobs/1").text
        job = Job.get_by_id(1)
        assert job.config["run"] == {"cmd": "python train.py\necho 'done'"}
        assert job.config["build"] == {
            "image": "python:3.12-slim",
            "build_steps": ["pip install six", "pip install flask"],
        }
        assert job.config["environment"]["env_vars"] == [["A", "1"], ["B", "x = y"]]
        assert job.config["environment"]["resources"]["memory"]["limits"] == 1024
        assert job.config["environment"]["resources"]["cpu"]["limits"] == 0.5
        assert job.config["termination"] == {"timeout": 90}
        assert (job.name, job.tags, job.user.username) == ("train", ["nightly", "gpu"], "ana")

    def test_that_are_wrong_are_named_and_kept(self, ana: Browser) -> None:
        typed = {
            "image": "No Image",
            "steps": "a",
            "env": "A=1\n2B=x",
            "cpu": "many",
            "memory": "12",
            "gpu": "half",
            "name": "a name",
            "tags": "t" * 100,
        }
        page = ana.fill(SUBMIT, 400, cmd="true", **typed)
        assert {name: form_of(page)[name] for name in typed} == typed
        wrong = set(typed) - {"steps"}
        for name in FIELDS:
            assert ("aria-invalid" in page.elements[name]) is (name in wrong), name
        for name in wrong:
            assert f"{name}-error" in str(page.elements[name]["aria-describedby"])
            assert f"{name}-error" in page.elements
            assert f"#{name}" in page.links
        assert "Add a unit, such as 512Mi or 4Gi." in page.text
        assert "Line 2: 2B is not a valid variable name" in page.text
        assert "alert" in str(page.elements["errors"].values())
        assert Job.select().count() == 0

    @pytest.mark.parametrize(
        ("typed", "wrong"),
        [
            ({}, "cmd"),
            ({"cmd": " \n"}, "cmd"),
            ({"image": "a"}, "cmd"),
            ({"env": "A=1\nB\n2=3", "cmd": "true"}, "env"),
            ({"cmd": "true", "env": "NOTHING"}, "env"),
            ({"cmd": "true", "timeout": "soon"}, "timeout"),
            ({"cmd": "true", "timeout": "inf"}, "timeout"),
            ({"cmd": "true", "timeout": "-1"}, "timeout"),
            ({"config": "run: ["}, "config"),
            ({"config": "build: {image: a}"}, "config"),
            ({"config": "- a", "cmd": "true"}, "config"),
            ({"config": "build: 7\nrun: {cmd: a}", "image": "a"}, "config"),
            ({"config": "run: {cmd: a}\nrum: 1"}, "config"),
            ({"config": "run: {cmd: a}\nenvironment: {env_vars: 7}", "env": "A=1"}, "env"),
            ({"config": "run: {cmd: a}", "name": "b c"}, "name"),
            ({"cmd": "a\0b"}, "cmd"),
        ],
    )
    def test_that_make_no_job(self, ana: Browser, typed: dict[str, str], wrong: str) -> None:
        page = ana.fill(SUBMIT, 400, **typed)
        assert [name for name in FIELDS if "aria-invalid" in page.elements[name]] == [wrong]

    def test_a_name_is_given_once(self, ana: Browser) -> None:
        ana.fill(SUBMIT, cmd="true", name="train")
        page = ana.fill(SUBMIT, 400, cmd="true", name="train")
        assert "This project already has a job named train; choose another name." in page.text
        assert "aria-invalid" in page.elements["name"]

    def test_nothing_typed_is_more_than_text(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 400, **dict.fromkeys(FIELDS, EVIL))
        assert "img" not in page.tags
        assert "script" not in page.tags
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
        assert {form_of(page)[name] for name in FIELDS} == {EVIL}
        page = ana.fill(SUBMIT, 200, cmd=EVIL, env=f"A={EVIL}", do="show")
        assert "img" not in page.tags
        assert "script" not in page.tags

    def test_a_config_may_stand_alone_or_below(self, ana: Browser) -> None:
        text = "# mine\nrun: {cmd: a}\nenvironment: {env_vars: {A: '1'}}\n"
        ana.fill(SUBMIT, config=text, name="alone")
        assert Job.get_by_id(1).content == text
        ana.fill(SUBMIT, config=text, cmd="b", env="B=2", image="c")
        config = Job.get_by_id(2).config
        assert config["run"] == {"cmd": "b"}
        assert config["environment"]["env_vars"] == [["A", "1"], ["B", "2"]]
        assert config["build"] == {"image": "c"}


class TestOnce:
    def test_two_presses_make_one_job(self, ana: Browser) -> None:
        fields = ana.form(SUBMIT).fields | {"cmd": "true"}
        for _ in range(2):
            ana.post(SUBMIT, fields)
            assert ana.location == "/ana/demo/jobs/1"
        ana.post(SUBMIT, fields | {"cmd": "false"})
        assert ana.location == "/ana/demo/jobs/2"
        ana.fill(SUBMIT, cmd="true")
        assert ana.location == "/ana/demo/jobs/3"

    def test_with_files_too(self, ana: Browser) -> None:
        fields = ana.form(SUBMIT).fields | {"cmd": "true"}
        for _ in range(2):
            ana.post(SUBMIT, fields | {"upload": (io.BytesIO(b"x"), "a.py")})
            assert ana.location == "/ana/demo/jobs/1"
        ana.post(SUBMIT, fields | {"upload": (io.BytesIO(b"y"), "a.py")})
        assert ana.location == "/ana/demo/jobs/2"


def test_a_form_that_is_too_old_is_kept(ana: Browser) -> None:
    page = ana.fill(SUBMIT, 403, cmd="echo kept", csrf_token="0" * 32)
    assert form_of(page)["cmd"] == "echo kept"
    assert "nothing was changed" in page.text
    fields = form_of(page)
    ana.post(SUBMIT, fields)
    assert Job.get_by_id(1).config["run"]["cmd"] == "echo kept"
    page = ana.post(SUBMIT, fields, 403, Origin="http://evil.example")
    assert "echo kept" not in page.text


class TestCommands:
    TYPED = {
        "cmd": 'echo "it\'s $HOME" `id` \\ !\n  two',
        "image": "python:3.12",
        "steps": "pip install 'a b'\n-x --y",
        "env": "A=it's\nB=$(id)\nC=-d",
        "name": "train",
        "tags": "a b,-c",
        "cpu": "500m",
        "memory": "1Gi",
        "gpu": "1",
        "timeout": "90.5",
    }

    @pytest.mark.parametrize("config", ["", "run: {cmd: x}\nEND\ntags: [z]", "build: {build_steps: [q]}\n"])
    def test_do_what_the_form_does(self, config: str) -> None:
        form = Form(self.TYPED | {"config": config.replace("END\n", "")})
        body, _ = read_job(form)
        line = (
            run_command("ana/demo", form, True).partition(" <<'")[0] if config else run_command("ana/demo", form, True)
        )
        words = shlex.split(line)
        assert words[:4] == ["polyjob", "run", "-p", "ana/demo"]
        given = dict(cli_run.make_context("run", words[2:], resilient_parsing=True).params)
        command = given.pop("command")
        for name in ("project", "detach", "quiet"):
            given.pop(name)
        assert given.pop("upload") == Path(".")
        stdin = io.StringIO(form.text("config"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            made = job_body(command, Origins(), **given)
        assert read_job_create(made).attributes["config"] == read_job_create(body).attributes["config"]
        assert {name: made.get(name) for name in ("name", "tags")} == {
            name: body.get(name) for name in ("name", "tags")
        }
        curl = shlex.split(curl_commands("http://h", "ana/demo", body).replace("\\\n", " "))
        assert json.loads(curl[curl.index("-d") + 1]) == body
        assert curl[1] == "http://h/api/v1/ana/demo/jobs"

    def test_of_a_config_are_a_here_document(self) -> None:
        text = "run:\n  cmd: |\n    cat <<X\nEND\n"
        line = run_command("ana/demo", Form({"config": text}))
        assert line == f"polyjob run -p ana/demo -f - <<'END_'\n{text}END_"

    def test_are_shown_without_script(self, ana: Browser) -> None:
        page = ana.fill(SUBMIT, 200, cmd="echo it's", do="show")
        assert "polyjob run -p ana/demo -- 'echo it'\"'\"'s'" in page.text
        assert 'curl http://localhost/api/v1/ana/demo/jobs -H "Authorization: token $POLYJOB_TOKEN"' in page.text
        assert form_of(page)["cmd"] == "echo it's"
        assert "hidden" not in page.elements["commands"]
        assert Job.select().count() == 0
        assert "hidden" in ana.get(SUBMIT).elements["commands"]

    def test_are_told_to_the_script(self, ana: Browser) -> None:
        token = ana.csrf()

        def ask(**typed: str) -> Any:
            return ana.http.post(
                f"{SUBMIT}/commands", data=typed | {"csrf_token": token}, headers={"Origin": ORIGIN}
            ).json

        assert ask(cmd="true", with_upload="yes")["run"] == "polyjob run -p ana/demo -u . -- true"
        assert "repo/upload" in ask(cmd="true", with_upload="yes")["curl"]
        assert list(ask(cmd="true", image="A B")["errors"]) == ["image"]


def code_of(settings: Settings) -> dict[str, bytes | str]:
    """The latest code's files and links."""
    code = Upload.select().order_by(Upload.id.desc()).get()
    found: dict[str, bytes | str] = {}
    with tarfile.open(Store(settings.data_dir).upload_path(code.digest)) as archive:
        for info in archive:
            if info.isreg():
                content = archive.extractfile(info)
                assert content
                found[info.name] = content.read()
            elif info.issym():
                found[info.name] = info.linkname
    return found


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

    def test_are_the_jobs_code(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, *[(f"mine/{name}", content) for name, content in self.FILES.items()])
        assert code_of(settings) == self.FILES
        assert Job.get_by_id(1).code == Project.get().code
        ana.fill(SUBMIT, cmd="true")
        assert Job.get_by_id(2).code == Job.get_by_id(1).code

    def test_come_as_a_tar_or_zip(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, ("code.tar.gz", tarred(self.FILES)))
        assert code_of(settings) == self.FILES
        self.upload(ana, ("code.zip", zipped({"x": b"1", "folder/y": b"2"}, {"folder/z": "y"})))
        assert code_of(settings) == {"x": b"1", "folder/y": b"2", "folder/z": "y"}
        self.upload(ana, ("one.py", b"1"))
        assert code_of(settings) == {"one.py": b"1"}
        self.upload(ana, ("a.zip", zipped({"x": b"1"})), ("b.py", b"2"))
        assert set(code_of(settings)) == {"a.zip", "b.py"}

    def test_of_git_stay_out(self, ana: Browser, settings: Settings) -> None:
        self.upload(ana, ("mine/.git/config", b"secret"), ("mine/.gitignore", b"*"), ("mine/sub/.git/x", b""))
        assert code_of(settings) == {".gitignore": b"*"}

    def test_none_is_none(self, ana: Browser) -> None:
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
    def test_that_do_harm_are_refused(self, ana: Browser, data_dir: Path, name: str, content: bytes) -> None:
        page = self.upload(ana, (name, content), status=400, env="A=1")
        assert "aria-invalid" in page.elements["upload"]
        assert form_of(page)["env"] == "A=1"
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
    def test_backslash_separates_folders_only_in_zips_of_windows(
        self, ana: Browser, settings: Settings, system: int, names: list[str], expected: set[str]
    ) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename, info.create_system = name, system
                archive.writestr(info, b"" if name.endswith("\\") else b"1")
        self.upload(ana, ("win.zip", data.getvalue()))
        assert set(code_of(settings)) == expected

    def test_zip_of_overlapping_members_is_refused(self, ana: Browser) -> None:
        content = zlib.compress(bytes(1 << 20), 9)[2:-4]
        sizes = (zlib.crc32(bytes(1 << 20)), len(content), 1 << 20, 1, 0)
        member = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0x21, *sizes)
        entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0x21, *sizes, 0, 0, 0, 0, 0) + b"x"
        directory = 40 * entry
        body = member + b"x" + content
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 40, 40, len(directory), len(body), 0)
        assert "overlap" in self.upload(ana, ("a.zip", body + directory + end), status=400).text

    def test_an_encrypted_zip_is_refused(self, ana: Browser) -> None:
        data = bytearray(zipped({"x": b"1"}))
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            position = data.rfind(magic)
            data[position + offset] |= 1
        assert "encrypted" in self.upload(ana, ("a.zip", bytes(data)), status=400).text

    def test_a_zip_that_lies_about_a_size_is_refused(self, ana: Browser) -> None:
        data = bytearray(zipped({"x": b"1"}))
        data[data.rfind(b"PK\1\2") + 24] = 5
        assert "incomplete or damaged" in self.upload(ana, ("a.zip", bytes(data)), status=400).text

    @pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_zip_that_unpacks_all_at_once_is_refused(self, ana: Browser, packed: int) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", packed) as archive:
            archive.writestr("x", b"1")
        assert "send a tar.gz" in self.upload(ana, ("a.zip", data.getvalue()), status=400).text

    def test_a_link_in_a_zip_is_read_no_further_than_a_path_goes(self, ana: Browser) -> None:
        content = zipped({"x": b"1"}, {"y": "x" * (64 << 20)})
        tracemalloc.start()
        self.upload(ana, ("a.zip", content), status=None)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 32 << 20

    def test_are_bounded(self, settings: Settings, ana: Browser, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_a_field_is_bounded(self, ana: Browser) -> None:
        self.upload(ana, ("x", b"1"), status=413, cmd="x" * (2 << 20))

    def test_are_asked_for_again_where_a_field_is_wrong(self, ana: Browser) -> None:
        page = self.upload(ana, ("x", b"1"), status=400, timeout="soon")
        assert "Choose the files again" in page.text
        assert Upload.select().count() == 0

    @pytest.mark.parametrize("body", [b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb"])
    def test_a_form_that_breaks_off_is_refused(self, ana: Browser, body: bytes) -> None:
        headers = {"Accept": HTML, "Origin": ORIGIN, "Content-Type": "multipart/form-data; boundary=x"}
        assert ana.http.post(SUBMIT, data=body, headers=headers).status_code == 400
        headers["Content-Type"] = "multipart/form-data"
        assert ana.http.post(SUBMIT, data=body, headers=headers).status_code == 400

    def test_nothing_is_left_of_them(self, ana: Browser, data_dir: Path) -> None:
        before = {path.name for path in data_dir.iterdir()}
        self.upload(ana, ("a", b"1"), ("b", b"2"))
        assert {path.name for path in data_dir.iterdir()} == before


class TestProjects:
    def test_are_chosen(self, ana: Browser, user: User, settings: Settings) -> None:
        ana.get("/submit", 303)
        assert ana.location == SUBMIT
        projects.create(user, {"name": "other"}, settings)
        assert {SUBMIT, "/ana/other/submit", "/new-project"} <= set(ana.get("/submit").links)

    def test_are_made_where_there_are_none(self, bob: Browser) -> None:
        bob.get("/submit", 303)
        assert bob.location == "/new-project"
        bob.fill("/new-project", name="mine", description="what\r\nfor", access="public")
        assert bob.location == "/bob/mine/submit"
        made = Project.get(Project.name == "mine")
        assert (made.is_public, made.description) == (True, "what\nfor")
        assert "Project mine was created." in bob.get("/bob/mine/submit").text

    def test_with_a_name_that_does_not_do(self, ana: Browser) -> None:
        for name, why in (
            ("", "required"),
            ("a b", "Only letters"),
            ("demo", "exists"),
            ("jobs", "reserved"),
            (EVIL, "Only"),
        ):
            page = ana.fill("/new-project", 400, name=name, description=EVIL)
            assert why in page.text
            assert "aria-invalid" in page.elements["name"]
            assert "img" not in page.tags
            assert next(form.fields for form in page.forms if "name" in form.fields)["description"] == EVIL
        assert "submit them again" in ana.fill("/new-project", 403, name="x", csrf_token="").text
        assert Project.select().count() == 1


def test_of_another_user_is_not_there(bob: Browser, project: Project) -> None:
    bob.get(SUBMIT, 404)
    bob.post(SUBMIT, {"cmd": "true", "csrf_token": bob.csrf()}, 404)
    bob.post(f"{SUBMIT}/commands", {"cmd": "true", "csrf_token": bob.csrf()}, 404)
    with write("test"):
        Project.update(is_public=True).execute()
    bob.post(SUBMIT, {"cmd": "true", "csrf_token": bob.csrf()}, 403)
    assert Job.select().count() == 0


def test_a_visitor_is_asked_to_sign_in(visitor: Browser, project: Project) -> None:
    assert visitor.get(SUBMIT, 401).forms[0].fields["next"] == SUBMIT
    visitor.post(SUBMIT, {"cmd": "true"}, 401)
