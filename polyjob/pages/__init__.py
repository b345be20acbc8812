"""The pages for people: everything escaped, nothing from elsewhere, and all of it usable without script."""

from polyjob.pages import actions, clone, sessions, show, submission, tokens  # noqa: F401 - it registers the pages
from polyjob.pages.blueprint import blp, error_page, template_folder

for part in (sessions, actions, clone, submission, tokens):
    blp.register_blueprint(part.blp)

__all__ = ["blp", "error_page", "template_folder"]
