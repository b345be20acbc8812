"""The web pages.

All content is escaped, nothing is loaded from other hosts, and every page works without JavaScript.
"""

from polyjob.pages import actions, capacity, clone, show, sign_in, submission, tokens, webhooks  # noqa: F401 - `show` adds routes to `blp`
from polyjob.pages.blueprint import blp, error_page, template_folder

for part in (sign_in, actions, clone, submission, tokens, webhooks, capacity):
    blp.register_blueprint(part.blp)

__all__ = ["blp", "error_page", "template_folder"]
