"""`polyjob outputs`: the output files of a job."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import requests
import urllib3

from polyjob.atomic_files import atomic_file
from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import ServerError, UsageError, exit_on_error
from polyjob.cli.names import run_path
from polyjob.cli.options import job_argument, project_option
from polyjob.cli.output import fail, print_json, say
from polyjob.cli.streams import printable
from polyjob.formatting import format_size
from polyjob.storage.output_names import possible_paths

CHUNK_BYTES = 1 << 18
DOWNLOAD_TRIES = 5

Fetch = Callable[[BinaryIO, bool], int]
"""Writes a download to a file, with a progress bar or without. Returns the number of bytes."""


@click.command()
@job_argument
@click.argument("path", required=False)
@project_option
@click.option("--output", "-o", metavar="FILE|FOLDER", help="Where to save; - is the standard output.")
@click.option("--tree", "-t", is_flag=True, help="List the files, or those below PATH.")
@click.option("--json", "is_json", is_flag=True, help="List the files as JSON.")
def outputs(job: str, path: str | None, project: str | None, output: str | None, tree: bool, is_json: bool) -> None:
    """Download all outputs of a job or one folder as a tarball, or print the file PATH.

    \b
      polyjob outputs 7                     saves quick-start-7.tar.gz
      polyjob outputs 7 --tree              lists the files
      polyjob outputs 7 model/loss.csv      prints one file
      polyjob outputs 7 model               saves quick-start-7-model.tar.gz
    """
    with exit_on_error():
        client = connect()
        job_path = run_path(client, job, project)
        _, _, project_name, _, job_id = job_path.split("/")
        path = (path or "").strip("/") and path
        if tree or is_json:
            _list(client, job_path, path or "", is_json)
        elif path and not _is_folder(client, job_path, path):
            params = {"path": os.fsencode(path)}
            target = _target(output, Path(path).name) if output else "-"
            _save(target, lambda out, bar: _fetch(client, f"{job_path}/outputs/files", params, out, bar))
        elif path:
            folder = path.strip("/")
            target = _target(output, f"{project_name}-{job_id}-{folder.replace('/', '-')}.tar.gz")
            _save(target, lambda out, bar: _fetch_folder(client, job_path, folder, out))
        else:
            if not any(client.get(f"{job_path}/outputs/tree").values()):
                raise UsageError(f"{job_path.strip('/').replace('/', '.')} has no outputs; nothing was saved.")
            target = _target(output, f"{project_name}-{job_id}.tar.gz")
            _save(target, lambda out, bar: _fetch(client, f"{job_path}/outputs/download", {}, out, bar))


def _is_folder(client: Client, job_path: str, path: str) -> bool:
    """Return whether the outputs have a folder at this path."""
    try:
        client.get(f"{job_path}/outputs/tree", path=os.fsencode(path))
    except ServerError:
        return False
    return True


def _target(output: str | None, name: str) -> str:
    """Return the file to save to. `output` may be a folder, which gets a file called `name`."""
    if output is None or output == "-":
        return output or name
    return str(Path(output) / name) if output.endswith("/") or Path(output).is_dir() else output


def _list(client: Client, job_path: str, path: str, is_json: bool) -> None:
    files = _files_below(client, job_path, path.strip("/"))
    if is_json:
        print_json([{"path": name, "size": size} for name, size in files])
        return
    for name, size in files:
        click.echo(f"{format_size(size):>10}  {printable(name)}")


def _files_below(client: Client, job_path: str, folder: str) -> Iterator[tuple[str, int]]:
    """Yield path and size of each file below a folder, in order of path. Each subfolder is requested when it is due."""
    prefix = f"{folder}/" if folder else ""
    entries: list[tuple[str, int]] = []
    for page in client.pages(f"{job_path}/outputs/tree", path=os.fsencode(folder)):
        entries += [(f"{prefix}{name}", size) for name, size in page["files"]]
        entries += [(f"{prefix}{name}/", 0) for name in page["dirs"]]
    for path, size in sorted(entries):
        if path.endswith("/"):
            yield from _files_below(client, job_path, path[:-1])
        else:
            yield path, size


def _save(target: str, fetch: Fetch) -> None:
    """Write a download to the target, `-` for the standard output.

    A file appears only when it is complete. A device or a pipe, such as `/dev/null`, is written to and never replaced.
    """
    if target == "-":
        fetch(sys.stdout.buffer, False)
        return
    if Path(target).exists() and not Path(target).is_file():
        _save_in_place(target, fetch)
        return
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(target)) as file:
            size = fetch(file, sys.stderr.isatty())
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        fail(f"{target} cannot be written: {error.strerror}.")
    say(f"{target}: {format_size(size)}")


def _save_in_place(target: str, fetch: Fetch) -> None:
    try:
        with open(target, "wb", buffering=0) as file:
            size = fetch(file, sys.stderr.isatty())
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        fail(f"{target} cannot be written: {error.strerror}.")
    say(f"{target}: {format_size(size)}")


def _fetch_folder(client: Client, job_path: str, folder: str, out: BinaryIO) -> int:
    """Write a tarball with the entries of one folder, taken from the tarball of all outputs.

    Return the total size of its files. Raises UsageError if the folder is missing.
    """
    for name in possible_paths(folder):
        size = _copy_folder(client, job_path, name, out)
        if size is not None:
            return size
    raise UsageError(f"The outputs have no folder `{folder}` any more.")


def _copy_folder(client: Client, job_path: str, folder: str, out: BinaryIO) -> int | None:
    """Write the folder of exactly this name. Return None, and write nothing, if the tarball does not have it."""
    size, target = 0, None
    with (
        client.send("GET", f"{job_path}/outputs/download", stream=True) as response,
        gzip.GzipFile(fileobj=response.raw, mode="rb") as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|", errors="surrogateescape") as source,
        contextlib.ExitStack() as stack,
    ):
        for member in source:
            path = member.name.partition("/")[2]
            if path != folder and not path.startswith(f"{folder}/"):
                continue
            if target is None:
                target = stack.enter_context(tarfile.open(fileobj=out, mode="w|gz", errors="surrogateescape"))
            if member.issparse():  # tarfile reads its holes as zeros
                member.type = tarfile.REGTYPE
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
            size += member.size
    return None if target is None else size


def _fetch(client: Client, path: str, params: dict[str, bytes], out: BinaryIO, has_bar: bool) -> int:
    """Write a download to `out` and return its size.

    After a broken connection, the download of outputs that do not change any more continues where it was.
    """
    done, tag, tries = 0, "", 0
    while True:
        headers = {"Range": f"bytes={done}-", "If-Range": tag} if done and tag else {}
        try:
            with client.send("GET", path, params=params, headers=headers, stream=True) as response:
                if done and response.status_code != 206:
                    fail("The download was interrupted and cannot be continued.")
                tag = response.headers.get("ETag", "")
                total = int(response.headers.get("Content-Length", 0)) + done
                with _progress_bar(total if has_bar else 0) as bar:
                    bar.update(done)
                    while data := response.raw.read(CHUNK_BYTES):
                        out.write(data)
                        done += len(data)
                        bar.update(len(data))
            if total and done < total:
                raise requests.ConnectionError("cut short")
            return done
        except (requests.ConnectionError, urllib3.exceptions.HTTPError):
            tries += 1
            if tries == DOWNLOAD_TRIES or not tag:
                raise requests.ConnectionError("interrupted") from None


def _progress_bar(total: int) -> Any:
    """Return a progress bar; one that shows nothing if the total is 0."""
    return click.progressbar(length=total, file=sys.stderr, show_pos=False) if total else _NoBar()


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: int) -> None:
        pass


commands = {"outputs": outputs}
