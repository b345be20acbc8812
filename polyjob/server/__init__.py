"""The server's processes: `polyjob serve`, gunicorn and its worker, the first start."""
