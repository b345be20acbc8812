"""Back up a data folder while its server runs, and restore it elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from peewee import DatabaseError

import polyjob
from polyjob.clock import now
from polyjob.crash_points import crash_point
from polyjob.db.database import close_database, database, open_database, write
from polyjob.db.migrations import current_version, latest_version, migrate
from polyjob.db.models import CLAIMED, QUEUED, Job, Secret
from polyjob.services.notes import MISSING_OUTPUTS_NOTE
from polyjob.services.transitions import update_columns, update_note
from polyjob.storage.backup_tar import BadBackup, Contents, remove_path, unpack_tar, write_tar
from polyjob.storage.durable import create_private, fsync_path
from polyjob.storage.store import Store
from runners.base import Exit, Reason

DATABASE_FILE = "polyjob.db"
_JOB_FILES = ("log", "log.times", "outputs.tar.gz", "outputs.json", "inputs.tar.gz")
_BUILD_FILES = ("log", "log.times")
_KNOWN = re.compile(
    r"polyjob\.db|root-token|code/[0-9a-f]{64}\.tar\.gz"
    rf"|jobs/[0-9a-f]{{32}}/(?:{'|'.join(map(re.escape, _JOB_FILES))})|builds/[0-9a-f]{{32}}/log(?:\.times)?"
)


RESTORING = ".restoring"
"""Folder in a data folder into which a backup is unpacked. If there is no database beside it, a restore was killed."""
_RESTORED_FIRST = {RESTORING, "jobs", "builds", "code", "root-token"}
"""The content of a data folder before the database of a backup is there."""
_LOST_MESSAGE = "The job ran when the backup was made that this server was restored from. Its end is unknown."


class CannotRestore(Exception):
    """A backup cannot be restored. The text says why in one sentence."""


@dataclass(frozen=True)
class Restored:
    """A restored backup, and the number of its jobs that were running or queued."""

    contents: Contents
    created_at: str
    """Time of the backup, ISO 8601."""
    version: str
    """The polyjob that made it."""
    lost_jobs: int
    """Jobs that ran at that time. They end as `lost`."""
    queued_jobs: int
    """Jobs that had not been started. They run."""
    secrets: int
    """Secrets that need the key file, which is not part of a backup."""


def write_backup(data_dir: Path, out: IO[bytes]) -> Contents:
    """Write a backup of a data folder to `out`, which need not be seekable. The server can run meanwhile.

    The backup is the state at one instant: a copy of the database, and the files of the jobs, builds and uploads in
    it. It has what a job has logged until then; the outputs of jobs that have not ended are not part of it, and neither
    are environments, images, files that a job left in its working folder, and the key of secrets. So a stolen backup
    reveals none of them. The database must be open. Blocks
    while another backup of the folder is made. Raises OSError and DatabaseError.
    """
    snapshot = data_dir / f"{DATABASE_FILE}.backup"
    with open(data_dir / "backup.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        snapshot.unlink(missing_ok=True)  # of a backup that was killed
        return _write_snapshot(data_dir, snapshot, out)


def _write_snapshot(data_dir: Path, snapshot: Path, out: IO[bytes]) -> Contents:
    try:
        create_private(snapshot)
        database.execute_sql("VACUUM INTO ?", (str(snapshot),))
        header = {"version": polyjob.__version__, "schema": current_version(), "created_at": now().isoformat()}
        return write_tar(out, header, _files(data_dir, snapshot))
    finally:
        snapshot.unlink(missing_ok=True)


def _files(data_dir: Path, snapshot: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the backup, path) of each file that belongs to a snapshot of the database."""
    yield DATABASE_FILE, snapshot
    yield "root-token", data_dir / "root-token"
    store = Store(data_dir)
    with contextlib.closing(sqlite3.connect(f"file:{snapshot}?mode=ro&immutable=1", uri=True)) as copy:
        for (digest,) in copy.execute("SELECT DISTINCT digest FROM code"):
            yield f"code/{digest}.tar.gz", store.upload_path(digest)
        for (uuid,) in copy.execute("SELECT uuid FROM job"):
            for name in _JOB_FILES:
                yield f"jobs/{uuid}/{name}", store.job_folder(uuid) / name
        for (uuid,) in copy.execute("SELECT uuid FROM build"):
            for name in _BUILD_FILES:
                yield f"builds/{uuid}/{name}", store.build_folder(uuid) / name


def restore_backup(source: IO[bytes], data_dir: Path) -> Restored:
    """Restore a backup into an absent or empty data folder. `source` need not be seekable.

    The database appears last. Until then nothing can be started in the folder, and the restore can be repeated after a
    crash. Jobs that ran when the backup was made end as `lost`, because they may have gone on since; a job never runs
    twice. Queued jobs run once a server starts in the folder.

    No database may be open. Raises CannotRestore, BadBackup, OSError and DatabaseError; then nothing is restored.
    """
    _check_is_free(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = data_dir / RESTORING
    _remove_incomplete_restore(data_dir)
    part.mkdir(mode=0o700)
    try:
        header, contents = unpack_tar(source, part, lambda name: _KNOWN.fullmatch(name) is not None)
        counts = _prepare_database(part)
        crash_point("restore:before")
        for path in sorted(part.iterdir(), key=lambda path: path.name == DATABASE_FILE):
            path.rename(data_dir / path.name)
            fsync_path(data_dir)
            crash_point(f"restore-{path.name}:after")
    except BaseException:
        _remove_incomplete_restore(data_dir)
        raise
    part.rmdir()
    return Restored(contents, str(header.get("created_at")), str(header.get("version")), *counts)


def _check_is_free(data_dir: Path) -> None:
    """Raise CannotRestore unless the folder is absent or empty, or has only what a killed restore has left."""
    names = _names(data_dir)
    if names and not (RESTORING in names and names <= _RESTORED_FIRST):
        raise CannotRestore(f"{data_dir} is not empty. Choose an absent or empty folder with --data-dir.")


def _names(data_dir: Path) -> set[str]:
    """Return the names in a folder, without the one that the root of each file system has."""
    return {path.name for path in data_dir.iterdir()} - {"lost+found"} if data_dir.exists() else set()


def _remove_incomplete_restore(data_dir: Path) -> None:
    """Remove what a restore has left that has not put the database in place. The marker goes last."""
    if (data_dir / DATABASE_FILE).exists():
        return
    for name in sorted(_names(data_dir) & _RESTORED_FIRST, key=lambda name: name == RESTORING):
        remove_path(data_dir / name)


def _prepare_database(folder: Path) -> tuple[int, int, int]:
    """Migrate the database, and end the jobs that ran. Return the number of these, of queued jobs, and of secrets."""
    if not (folder / DATABASE_FILE).exists():
        raise BadBackup("The backup has no database.")
    try:
        open_database(folder)
        if not 0 < current_version() <= latest_version():
            raise CannotRestore("The backup was made by a newer polyjob. Install that version, and restore it again.")
        if (fault := database.execute_sql("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise BadBackup(f"The database of the backup is damaged: {fault}.")
        migrate(folder)
        with write("restore-jobs"):
            for job in Job.select().where(CLAIMED, Job.exit.is_null(False)):
                if not Store(folder).is_sealed(job.uuid):
                    update_note(
                        job, MISSING_OUTPUTS_NOTE, "The backup was made before the outputs of this job were stored."
                    )
            running = list(Job.select().where(CLAIMED, Job.attempt_at.is_null(False), Job.exit.is_null()))
            for job in running:
                update_columns(job, exit=Exit(Reason.LOST, message=_LOST_MESSAGE).to_json(), handle=None)
        queued = Job.select().where(QUEUED | (CLAIMED & Job.attempt_at.is_null())).count()
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(running), queued, Secret.select().count()
    except DatabaseError as error:
        raise BadBackup(f"The database of the backup cannot be read: {error}.") from None
    finally:
        close_database()
        for path in (folder / "write.lock", *folder.glob(f"{DATABASE_FILE}.before-*")):
            path.unlink(missing_ok=True)
