"""Path prefixes of projects, jobs, builds and schedules, in the API and in the pages."""

PROJECT = "/<username>/<project_name>"
JOBS = f"{PROJECT}/jobs"
JOB = f"{JOBS}/<int:job_id>"
BUILDS = f"{PROJECT}/builds"
BUILD = f"{BUILDS}/<int:build_id>"
SCHEDULES = f"{PROJECT}/schedules"
SCHEDULE = f"{SCHEDULES}/<int:schedule_id>"
