"""All images of a job, durably: plan, run, journal, resume, report."""

from joycap_vllm.job.journal import Journal, Record, read_records, state_folder
from joycap_vllm.job.plan import Plan, Survey
from joycap_vllm.job.progress import Progress, Summary
from joycap_vllm.job.report import Report, make_report
from joycap_vllm.job.run import run_job
from joycap_vllm.job.settings import JobSettings

__all__ = [
    "JobSettings",
    "Journal",
    "Plan",
    "Progress",
    "Record",
    "Report",
    "Summary",
    "Survey",
    "make_report",
    "read_records",
    "run_job",
    "state_folder",
]
