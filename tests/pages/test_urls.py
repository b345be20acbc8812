"""The URLs of the pages."""

from __future__ import annotations

from flask import Flask

from polyjob.pages.urls import page_url


def test_urls_start_with_the_prefix_of_each_request(app: Flask) -> None:
    for prefix in ("", "/jobs", "", "/other"):
        with app.test_request_context("/", base_url=f"http://localhost{prefix}"):
            assert page_url("pages.project_jobs", username="ana", project_name="a b") == f"{prefix}/ana/a%20b"
