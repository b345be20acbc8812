"""Who may ask for what: one line for each operation.

=============  =====================================================================================================
open           anybody; no key is asked for
read           any key, for what its user may read
submit         a key of scope `submit` or `admin`; what belongs to a project, by its owner or an administrator
mark           a key of scope `submit` or `admin`, for what its user may read
manage         a key of scope `admin`; what belongs to a project, by its owner or an administrator
person         a key of scope `admin` that is bound to no project
administer     the same, of an administrator
=============  =====================================================================================================

With `, job` behind it, a job's own key does as well, for that job alone. It updates only what `OWN_CHANGES` names.
An operation that is missing here is refused to everybody, and a test names the line to add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polyjob.auth.identity import Identity, may_read, may_write
from polyjob.auth.scopes import Scope
from polyjob.db.models import Project
from polyjob.errors import Forbidden

_READ = "read"
_TABLE = """
health.healthz                       open
health.readyz                        open
service.cli_versions                 open
service.platform_versions            open
service.lib_versions                 open
service.chart_version                open
service.log_handler                  open
users.log_in                         open

users.who_am_i                       read
users.log_out                        read
users.refresh_session                read
users.update_me                      person
users.set_password                   person
users.list_users                     administer
users.create_user                    administer
users.delete_user                    administer
users.activate_user                  administer
users.deactivate_user                administer
users.grant                          administer
users.revoke                         administer
tokens.list_tokens                   person
tokens.create_token                  person
tokens.revoke_token                  person
audit.list_audit                     administer
audit.list_job_audit                 manage
cluster.get_cluster                  administer
cluster.list_nodes                   administer
cluster.get_node                     administer
cluster.list_graphics                administer

projects.create_project              person
projects.list_projects               read
projects.list_project_names          read
projects.get_project                 read
projects.update_project              manage
projects.delete_project              manage
projects.archive_project             manage
projects.restore_project             manage
projects.bookmark_project            mark
projects.unbookmark_project          mark
projects.get_repository              read
projects.download_code               read
projects.delete_repository           submit
projects.upload_code                 submit

jobs.list_jobs                       read
jobs.create_job                      submit
jobs.get_job                         read, job
jobs.update_job                      submit, job
jobs.delete_job                      manage
jobs.stop_job                        submit
jobs.archive_job                     submit
jobs.restore_job                     submit
jobs.stop_jobs                       submit
jobs.delete_jobs                     manage
jobs.restart_job                     submit
jobs.resume_job                      submit
jobs.copy_job                        submit
jobs.bookmark_job                    mark
jobs.unbookmark_job                  mark
statuses.list_statuses               read, job
statuses.get_status                  read, job
statuses.post_status                 submit, job
statuses.reconcile                   submit
statuses.heartbeat                   submit, job
statuses.get_code_reference          read, job
statuses.post_code_reference         submit, job
logs.get_job_log                     read, job
logs.send_job_log                    submit, job
logs.get_job_log_lines               read, job
logs.search_job_log                  read, job
streams.stream_job_log               read, job
streams.stream_build_log             read
outputs.get_outputs                  read
outputs.download_outputs             read
outputs.tree_of_outputs              read
outputs.file_of_outputs              read

builds.list_builds                   read
builds.create_build                  submit
builds.invalidate_builds             submit
builds.get_build                     read
builds.update_build                  submit
builds.delete_build                  manage
builds.stop_build                    submit
builds.invalidate_build              submit
builds.archive_build                 submit
builds.restore_build                 submit
builds.bookmark_build                mark
builds.unbookmark_build              mark
builds.build_heartbeat               submit
builds.get_build_code_reference      read
builds.post_build_code_reference     submit
builds.post_build_status             submit
builds.reconcile_build               submit
builds.list_build_statuses           read
builds.get_build_status              read
logs.get_build_log                   read
logs.send_build_log                  submit
logs.get_build_log_lines             read
logs.search_build_log                read

marked.bookmarked_jobs               read
marked.bookmarked_builds             read
marked.bookmarked_projects           read
marked.archived_jobs                 read
marked.archived_builds               read
marked.archived_projects             read
"""

NEEDS: Mapping[str, tuple[str, bool]] = {
    name: (need.partition(",")[0].strip(), need.endswith("job"))
    for name, _, need in (line.strip().partition(" ") for line in _TABLE.splitlines() if line)
}
"""Operation → (what it needs, whether a job's own key does as well)."""

OWN_CHANGES = frozenset({"name", "description", "tags", "data_refs", "params", "merge"})
"""Fields that a job's own token may change of its job."""
_SCOPES = {"read": Scope.READ, "submit": Scope.SUBMIT, "mark": Scope.SUBMIT}
NOT_ALLOWED = "You do not have permission to perform this action."


def is_open(endpoint: str | None) -> bool:
    """Whether no key is asked for. A path of no view asks for one, and so tells nobody anything."""
    return NEEDS.get(endpoint or "", ("", False))[0] == "open"


def check(endpoint: str | None, arguments: Mapping[str, Any], identity: Identity) -> None:
    """Raises Forbidden where this key, whatever its user may do, is not good for the operation."""
    if endpoint is None:
        return
    need, job_may = NEEDS.get(endpoint, ("nobody", False))
    if identity.job is not None:
        if not job_may or arguments.get("job_id") != identity.job.id:
            raise Forbidden(
                "A job's own token reads its own job, changes what describes it, and reports on it; no more."
            )
        return
    if need == "nobody":
        raise Forbidden(NOT_ALLOWED)
    wanted = _SCOPES.get(need, Scope.ADMIN)
    if not identity.scope.covers(wanted):
        raise Forbidden(f"This token has the scope `{identity.scope}`; this takes `{wanted}`.")
    if need in ("person", "administer") and identity.project_id is not None:
        raise Forbidden("This token is good for one project only.")
    if need == "administer" and not identity.user.is_admin:
        raise Forbidden(NOT_ALLOWED)


def check_changes(changes: Iterable[str], identity: Identity | None) -> None:
    """Raises Forbidden where a job's own key would change more than describes the job."""
    refused = sorted(set(changes) - OWN_CHANGES)
    if identity is not None and identity.job is not None and refused:
        own = ", ".join(f"`{name}`" for name in sorted(OWN_CHANGES - {"merge"}))
        raise Forbidden(f"A job's own token changes only {own} of its job, not `{refused[0]}`.")


def allows(endpoint: str, identity: Identity) -> bool:
    """Whether this key, whatever its user may do, is good for the operation."""
    try:
        check(endpoint, {}, identity)
    except Forbidden:
        return False
    return True


def may(endpoint: str, identity: Identity, project: Project) -> bool:
    """Whether an operation on what belongs to the project would be refused neither to this key nor to its user."""
    if not allows(endpoint, identity):
        return False
    if identity.project_id not in (None, project.id):
        return False
    return (may_write if needs_writer(endpoint) else may_read)(identity.user, project)


def needs_writer(endpoint: str) -> bool:
    """Whether an operation on what belongs to a project is for those alone who may write to it."""
    return NEEDS[endpoint][0] in ("submit", "manage")
