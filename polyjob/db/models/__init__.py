"""The tables as peewee models. `migrations/` creates them in SQLite; a test compares the two.

Columns named `…_clock` have a time on the boot clock as `<boot id>:<seconds>`. Changes of the wall clock do not affect
it.
"""

from polyjob.db.models.accounts import EndedSession, SignInLink, Token, User
from polyjob.db.models.automation import MAX_SHOWN_FIRES, Delivery, Schedule, ScheduleFire, Webhook
from polyjob.db.models.conditions import (
    ARCHIVED,
    CLAIMED,
    DELAYED,
    DELETED,
    LISTED,
    LIVE_BUILDS,
    PENDING,
    QUEUED,
    UNDELETED,
)
from polyjob.db.models.installation import Audit, Idempotency, Meta, StoredSetting
from polyjob.db.models.projects import InviteLink, Member, Project, Secret, Upload
from polyjob.db.models.runs import Bookmark, Build, BuildStatus, Dependency, Job, JobStatus, JobTag, Queue
from polyjob.db.models.table import StatusField, Table

__all__ = [
    "ARCHIVED",
    "CLAIMED",
    "DELAYED",
    "DELETED",
    "LISTED",
    "LIVE_BUILDS",
    "MAX_SHOWN_FIRES",
    "PENDING",
    "QUEUED",
    "TABLES",
    "UNDELETED",
    "Audit",
    "Bookmark",
    "Build",
    "BuildStatus",
    "Delivery",
    "Dependency",
    "EndedSession",
    "Idempotency",
    "InviteLink",
    "Job",
    "JobStatus",
    "JobTag",
    "Member",
    "Meta",
    "Project",
    "Queue",
    "Schedule",
    "ScheduleFire",
    "Secret",
    "SignInLink",
    "StatusField",
    "StoredSetting",
    "Table",
    "Token",
    "Upload",
    "User",
    "Webhook",
]

TABLES: tuple[type[Table], ...] = (
    Meta,
    StoredSetting,
    User,
    Token,
    SignInLink,
    EndedSession,
    Project,
    Member,
    InviteLink,
    Upload,
    Build,
    BuildStatus,
    Job,
    JobStatus,
    Dependency,
    Queue,
    JobTag,
    Bookmark,
    Audit,
    Schedule,
    ScheduleFire,
    Secret,
    Idempotency,
    Webhook,
    Delivery,
)
