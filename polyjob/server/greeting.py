"""The greeting of `polyjob serve`: addresses, a sign-in link, whose rights jobs have, and commands to try."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from peewee import DatabaseError

from polyjob.db.database import close_database, open_database
from polyjob.db.models import CLAIMED, Job
from polyjob.server.bootstrap import new_sign_in_token, startup_warnings, stored_token
from polyjob.server.bootstrap_names import PROJECT, TOKEN_FILE, USER
from polyjob.server.own_addresses import own_addresses
from polyjob.server.terminal import warn
from polyjob.settings import Settings, read_settings
from polyjob.storage.store import Store
from runners.process.isolation import gaps
from runners.registry import runner_facts

FIRST_COMMAND = "for i in 1 2 3; do echo hello $i; sleep 1; done"
FIRST_IMAGE = "busybox"
"""Image of the first job, if jobs of the runner need one."""
ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
"""Values of POLYJOB_HOST with which the server listens on every address of the machine."""


def greeting(settings: Settings) -> list[str]:
    """Return the lines of the greeting. The sign-in link in it is new. Needs the open database."""
    return [
        f"polyjob is running on {settings.url}",
        "",
        *_address_lines(settings),
        *_account_lines(settings),
        "",
        *_first_commands(settings),
        "",
        "Ctrl-C stops the server. Running jobs continue.",
    ]


def _address_lines(settings: Settings) -> list[str]:
    path = settings.data_dir / TOKEN_FILE
    link = _sign_in_token(settings)
    return [
        f"  page:  {settings.url}/sign-in/{link}  (signs {USER} in, once, within an hour)"
        if link
        else f"  page:  {settings.url}/",
        *_local_lines(settings),
        *_network_lines(settings),
        f"  data:  {settings.data_dir}",
        f"  token: {path if stored_token(settings.data_dir) else f'not in {path}; set POLYJOB_TOKEN to yours'}",
    ]


def _local_lines(settings: Settings) -> list[str]:
    """Return a line with the address on this machine, if that above is a public one, which a proxy has to serve."""
    return [f"  local: {settings.local_url}/  (on this machine)"] if settings.public_url else []


def _network_lines(settings: Settings) -> list[str]:
    """Return lines that tell how to reach the server from another machine, unless it has a public address.

    A server on the loopback address is reached by a tunnel, which is shown to whoever has come by SSH.
    """
    session = os.environ.get("SSH_CONNECTION", "").split()  # client, its port, server, its port
    is_open = settings.host in ANY_ADDRESS
    if settings.public_url or not (is_open or session):
        return []
    addresses = own_addresses() if is_open else []
    server = urlsplit(settings.local_url).netloc
    machine = [*session[2:3], *addresses, os.uname().nodename][0]
    account = os.environ.get("SUDO_USER") or _account()
    return [
        *(f"  also:  http://{address}:{settings.port}/  (not encrypted)" for address in addresses),
        f"  ssh:   ssh -N -L {settings.port}:{server} {account}@{machine}  "
        "(on your own machine; the page above then works there)",
    ]


def _sign_in_token(settings: Settings) -> str | None:
    try:
        return new_sign_in_token()
    except (OSError, DatabaseError):
        free = Store(settings.data_dir).free_bytes() >> 10
        warn(f"no sign-in link could be created: the database cannot be written, {free} KiB are free")
        return None


def _account_lines(settings: Settings) -> list[str]:
    """Return lines that tell with whose rights the jobs of the process runner run."""
    if "process" not in settings.runner_names:
        return []
    if settings.job_user:
        return [
            f"  jobs:  run as user {settings.job_user}",
            *(f"  Warning: {gap}" for gap in gaps(settings.job_user)),
        ]
    account = _account()
    warnings = startup_warnings(settings) or [
        f'Warning: jobs run as user "{account}". Anyone who can submit jobs can do anything {account} can.'
    ]
    return ["", *(f"  {warning}" for warning in warnings)]


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _first_commands(settings: Settings) -> list[str]:
    """Return a command that runs a job and shows its output, and one that submits it with curl."""
    image = _first_image(settings)
    command = [*_polyjob(settings), "run", *(["-i", image] if image else []), shlex.quote(FIRST_COMMAND)]
    path = shlex.quote(str(settings.data_dir / TOKEN_FILE))
    token = f"$(cat {path})" if stored_token(settings.data_dir) else "$POLYJOB_TOKEN"
    config = ({"build": {"image": image}} if image else {}) | {"run": {"cmd": FIRST_COMMAND}}
    jobs_url = f"{settings.url}/api/v1/{USER}/{PROJECT}/jobs"
    return [
        "Run a job, in another terminal on this machine:",
        "",
        f"  {' '.join(command)}",
        "",
        "Submit it with curl:",
        "",
        f'  curl -s -H "Authorization: token {token}" -d {shlex.quote(json.dumps(config))} {jobs_url}',
    ]


def _polyjob(settings: Settings) -> list[str]:
    """Return the words that call this installation's command line from a new shell, for this data folder."""
    script = Path(sys.executable).with_name("polyjob")
    found = shutil.which("polyjob")
    if found and Path(found).resolve() == script.resolve():
        command = ["polyjob"]
    else:
        command = [shlex.quote(str(script))] if script.exists() else [shlex.quote(sys.executable), "-m", "polyjob"]
    is_default = settings.data_dir == read_settings({}).data_dir
    return command if is_default else [f"POLYJOB_DATA_DIR={shlex.quote(str(settings.data_dir))}", *command]


def _first_image(settings: Settings) -> str:
    """Return the image of the first job, or an empty text if jobs of the runner need none.

    On a cluster, it is the helper image: the nodes need that one in any case, even without a network.
    """
    if "build.image" not in runner_facts(settings.runner).required_parts:
        return ""
    return settings.kubernetes.helper_image if settings.runner == "kubernetes" else FIRST_IMAGE


def running_jobs_message(settings: Settings) -> str | None:
    """Return how many jobs continue without the server; None if there are none, or if the data folder is missing."""
    try:
        open_database(settings.data_dir)
        count = Job.select().where(CLAIMED, Job.exit.is_null()).count()
    except (OSError, DatabaseError):
        return None
    finally:
        close_database()
    if count == 1:
        return "1 job is still running. The next start of polyjob continues with it."
    return f"{count} jobs are still running. The next start of polyjob continues with them." if count else None
