"""All images of a job, durably: plan, run, journal, resume, report."""

from joycap_vllm.job.journal import Journal
from joycap_vllm.job.page import write_page
from joycap_vllm.job.plan import Plan, Survey
from joycap_vllm.job.progress import Progress, Summary
from joycap_vllm.job.records import Record, read_records, state_folder
from joycap_vllm.job.report import Report, make_report
from joycap_vllm.job.run import run_job
from joycap_vllm.job.settings import JobSettings, check_settings
from joycap_vllm.job.stop import Stop
from joycap_vllm.job.telling import line_of, report_data
from joycap_vllm.job.writing import mend_outputs

__all__ = [
    "JobSettings",
    "Journal",
    "Plan",
    "Progress",
    "Record",
    "Report",
    "Stop",
    "Summary",
    "Survey",
    "check_settings",
    "line_of",
    "make_report",
    "mend_outputs",
    "read_records",
    "report_data",
    "run_job",
    "state_folder",
    "write_page",
]
