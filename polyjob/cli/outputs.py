"""`polyjob outputs`: the files that a job left."""

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

from polyjob.cli.client import Client, ServerError, UsageError, connect, exit_on_error, fail, run_path, say
from polyjob.cli.output import print_json
from polyjob.cli.streams import printable
from polyjob.formatting import format_size
from polyjob.storage.output_names import possible_paths

CHUNK = 1 << 18
TRIES = 5


@click.command()
@click.argument("job")
@click.argument("path", required=False)
@click.option("--project", "-p", help="Project, or user/project.  [default: POLYJOB_PROJECT]")
@click.option("--output", "-o", metavar="FILE|FOLDER", help="Where to; - is the terminal or pipe.")
@click.option("--tree", "-t", is_flag=True, help="List the files, or those below PATH.")
@click.option("--json", "is_json", is_flag=True, help="List as JSON.")
def outputs(job: str, path: str | None, project: str | None, output: str | None, tree: bool, is_json: bool) -> None:
    """Download a job's outputs as a tar.gz, or one folder of them, or print the file PATH.

    \b
      polyjob outputs 7                     saves quick-start-7.tar.gz
      polyjob outputs 7 --tree              lists the files
      polyjob outputs 7 model/loss.csv      prints one file
      polyjob outputs 7 model               saves quick-start-7-model.tar.gz
    """
    with exit_on_error():
        client = connect()
        at = run_path(client, job, project)
        _, _, name, _, number = at.split("/")
        path = (path or "").strip("/") and path
        if tree or is_json:
            _list(client, at, path or "", is_json)
        elif path and not _is_folder(client, at, path):
            target = _target(output, Path(path).name) if output else "-"
            _save(target, lambda out, bar: _fetch(client, f"{at}/outputs/files", {"path": os.fsencode(path)}, out, bar))
        elif path:
            folder = path.strip("/")
            target = _target(output, f"{name}-{number}-{folder.replace('/', '-')}.tar.gz")
            _save(target, lambda out, bar: _fetch_folder(client, at, folder, out))
        else:
            if not any(client.get(f"{at}/outputs/tree").values()):
                raise UsageError(f"{at.strip('/').replace('/', '.')} has no outputs; nothing is saved.")
            target = _target(output, f"{name}-{number}.tar.gz")
            _save(target, lambda out, bar: _fetch(client, f"{at}/outputs/download", {}, out, bar))


def _is_folder(client: Client, at: str, path: str) -> bool:
    """Return whether the outputs have a folder of that name."""
    try:
        client.get(f"{at}/outputs/tree", path=os.fsencode(path))
    except ServerError:
        return False
    return True


def _target(output: str | None, name: str) -> str:
    """Where to save: a folder takes the file by its own name."""
    if output is None or output == "-":
        return output or name
    return str(Path(output) / name) if output.endswith("/") or Path(output).is_dir() else output


def _list(client: Client, at: str, path: str, is_json: bool) -> None:
    found = _below(client, at, path.strip("/"))
    if is_json:
        print_json([{"path": name, "size": length} for name, length in found])
        return
    for name, length in found:
        click.echo(f"{format_size(length):>10}  {printable(name)}")


def _below(client: Client, at: str, folder: str) -> Iterator[tuple[str, int]]:
    """Yield path and size of each file below a folder, in order of path. Asks for a folder when its turn comes."""
    prefix = f"{folder}/" if folder else ""
    entries: list[tuple[str, int]] = []
    for listed in client.parts(f"{at}/outputs/tree", path=os.fsencode(folder)):
        entries += [(f"{prefix}{name}", length) for name, length in listed["files"]]
        entries += [(f"{prefix}{name}/", 0) for name in listed["dirs"]]
    for path, length in sorted(entries):
        if path.endswith("/"):
            yield from _below(client, at, path[:-1])
        else:
            yield path, length


def _save(target: str, fetch: Callable[[BinaryIO, bool], int]) -> None:
    """Write what `fetch` brings to the target, `-` for the standard output.

    A file appears only when it is complete. A device or a pipe, such as `/dev/null`, is written to and never replaced.
    """
    if target == "-":
        fetch(sys.stdout.buffer, False)
        return
    if Path(target).exists() and not Path(target).is_file():
        _save_in_place(target, fetch)
        return
    part = Path(f"{target}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            length = fetch(file, sys.stderr.isatty())
        part.rename(target)
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        fail(f"{target} cannot be written: {error.strerror}.")
    finally:
        part.unlink(missing_ok=True)
    say(f"{target}: {format_size(length)}")


def _save_in_place(target: str, fetch: Callable[[BinaryIO, bool], int]) -> None:
    try:
        with open(target, "wb", buffering=0) as file:
            length = fetch(file, sys.stderr.isatty())
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        fail(f"{target} cannot be written: {error.strerror}.")
    say(f"{target}: {format_size(length)}")


def _fetch_folder(client: Client, at: str, folder: str, out: BinaryIO) -> int:
    """Write a tar.gz with the entries of one folder, taken from the archive of all; return the bytes of its files."""
    for name in possible_paths(folder):
        count = _copy_folder(client, at, name, out)
        if count is not None:
            return count
    raise UsageError(f"The outputs have no folder `{folder}` any more.")


def _copy_folder(client: Client, at: str, folder: str, out: BinaryIO) -> int | None:
    """Write the folder of exactly this name. Return None, and write nothing, if the archive does not have it."""
    count, target = 0, None
    with (
        client.send("GET", f"{at}/outputs/download", stream=True) as answer,
        gzip.GzipFile(fileobj=answer.raw, mode="rb") as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|", errors="surrogateescape") as source,
        contextlib.ExitStack() as stack,
    ):
        for member in source:
            path = member.name.partition("/")[2]
            if path != folder and not path.startswith(f"{folder}/"):
                continue
            if target is None:
                target = stack.enter_context(tarfile.open(fileobj=out, mode="w|gz", errors="surrogateescape"))
            if member.issparse():  # its content comes with zeros for the holes
                member.type = tarfile.REGTYPE
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
            count += member.size
    return None if target is None else count


def _fetch(client: Client, address: str, parameters: dict[str, bytes], out: BinaryIO, progress: bool) -> int:
    """Bytes that came. A download of what is sealed goes on where a broken connection left it."""
    done, tag, tries = 0, "", 0
    while True:
        headers = {"Range": f"bytes={done}-", "If-Range": tag} if done and tag else {}
        try:
            with client.send("GET", address, params=parameters, headers=headers, stream=True) as answer:
                if done and answer.status_code != 206:
                    fail("The download broke off, and cannot be gone on with.")
                tag = answer.headers.get("ETag", "")
                length = int(answer.headers.get("Content-Length", 0)) + done
                with _bar(length if progress else 0) as bar:
                    bar.update(done)
                    while data := answer.raw.read(CHUNK):
                        out.write(data)
                        done += len(data)
                        bar.update(len(data))
            if length and done < length:
                raise requests.ConnectionError("cut short")
            return done
        except (requests.ConnectionError, urllib3.exceptions.HTTPError):
            tries += 1
            if tries == TRIES or not tag:
                raise requests.ConnectionError("broken off") from None


def _bar(length: int) -> Any:
    if length:
        return click.progressbar(length=length, file=sys.stderr, show_pos=False)
    return _NoBar()


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: int) -> None:
        pass


commands = {"outputs": outputs}
