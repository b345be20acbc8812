"""The processes of the server: `polyjob serve`, gunicorn and its worker, the first start."""
