"""Members of projects, and invite links."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant
from polyjob.auth.roles import Role
from polyjob.jobconfig.fields import ShortText

_ROLE = validate.OneOf([str(role) for role in Role])


class MemberSchema(Schema):
    """A member of a project."""

    username = fields.String(attribute="user.username")
    role = fields.String(validate=_ROLE)
    created_at = Instant()


class MemberBody(Body):
    username = fields.String(validate=validate.Length(1, 156))
    role = fields.String(validate=_ROLE)


class InviteSchema(Schema):
    """An invite link that can still be used."""

    id = fields.String()
    project = fields.String(
        attribute="project.unique_name",
        dump_default=None,
        allow_none=True,
        metadata={"description": "The project in which the new user gets the role."},
    )
    role = fields.String(allow_none=True)
    created_by = fields.String(attribute="creator.username")
    expires_at = Instant()


class NewInviteSchema(InviteSchema):
    """A new invite link."""

    url = fields.String(metadata={"description": "Address of the link. It is shown only in this response."})


class InviteBody(Body):
    project = ShortText(metadata={"description": "`user.project`, or the name of one of your projects."})
    role = fields.String(validate=_ROLE, metadata={"description": "Role in the project."})
