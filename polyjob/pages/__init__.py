"""The web pages.

All content is escaped, nothing is loaded from other hosts, and every page works without JavaScript.
"""

from polyjob.pages import (
    actions,
    audit,
    capacity,
    clone,
    project_settings,
    schedules,
    secrets,
    show,  # noqa: F401 - it adds routes to `blp`
    sign_in,
    submission,
    tokens,
    users,
    webhooks,
)
from polyjob.pages.blueprint import blp, error_page, template_folder

for part in (
    sign_in,
    actions,
    clone,
    submission,
    tokens,
    capacity,
    project_settings,
    schedules,
    secrets,
    users,
    webhooks,
    audit,
):
    blp.register_blueprint(part.blp)

__all__ = ["blp", "error_page", "template_folder"]
