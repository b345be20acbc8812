"""The pages for people: everything escaped, nothing from elsewhere, and all of it readable without script."""

from polyjob.pages import views  # noqa: F401 - it registers the pages
from polyjob.pages.blueprint import blp, error_page, template_folder

__all__ = ["blp", "error_page", "template_folder"]
