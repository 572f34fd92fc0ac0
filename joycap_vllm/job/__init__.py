"""All images of a job, durably: plan, run, journal, resume, report.

Each name is imported when it is first used: captions that exist are judged without the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "Agenda",
    "Chosen",
    "Exported",
    "Figures",
    "Gathered",
    "JobSettings",
    "Journal",
    "Plan",
    "Problem",
    "Progress",
    "Record",
    "Report",
    "Standing",
    "StatusFile",
    "Stop",
    "StoredJob",
    "Summary",
    "Survey",
    "Writer",
    "ask_again",
    "check_settings",
    "choose",
    "default_out",
    "export_batch",
    "export_gathered",
    "export_job",
    "export_output",
    "find_state",
    "gather",
    "import_batch",
    "is_writable",
    "job_folder",
    "line_of",
    "load_job",
    "make_report",
    "metrics_served",
    "read_records",
    "report_data",
    "run_job",
    "standing_of",
    "state_folder",
    "told",
    "unknown_names",
    "write_page",
]

_HOMES = {
    "Agenda": "agenda",
    "Chosen": "again",
    "Figures": "figures",
    "Exported": "export",
    "Gathered": "gathering",
    "JobSettings": "settings",
    "Journal": "journal",
    "Plan": "plan",
    "Problem": "problems",
    "Progress": "progress",
    "Record": "records",
    "Report": "report",
    "Standing": "standing",
    "StatusFile": "status",
    "Stop": "stop",
    "StoredJob": "stored",
    "Summary": "progress",
    "Survey": "agenda",
    "Writer": "standing",
    "ask_again": "again",
    "check_settings": "settings",
    "choose": "again",
    "default_out": "export",
    "find_state": "standing",
    "export_batch": "batch",
    "export_gathered": "export",
    "export_job": "export",
    "export_output": "export",
    "gather": "gathering",
    "import_batch": "batch_results",
    "is_writable": "records",
    "job_folder": "again",
    "line_of": "telling",
    "load_job": "stored",
    "make_report": "report",
    "metrics_served": "metrics",
    "read_records": "records",
    "report_data": "telling",
    "run_job": "run",
    "standing_of": "standing",
    "state_folder": "records",
    "told": "status",
    "unknown_names": "filling",
    "write_page": "page",
}

if TYPE_CHECKING:
    from joycap_vllm.job.again import Chosen, ask_again, choose, job_folder
    from joycap_vllm.job.agenda import Agenda, Survey
    from joycap_vllm.job.batch import export_batch
    from joycap_vllm.job.batch_results import import_batch
    from joycap_vllm.job.export import (
        Exported,
        default_out,
        export_gathered,
        export_job,
        export_output,
    )
    from joycap_vllm.job.figures import Figures
    from joycap_vllm.job.filling import unknown_names
    from joycap_vllm.job.gathering import Gathered, gather
    from joycap_vllm.job.journal import Journal
    from joycap_vllm.job.metrics import metrics_served
    from joycap_vllm.job.page import write_page
    from joycap_vllm.job.plan import Plan
    from joycap_vllm.job.problems import Problem
    from joycap_vllm.job.progress import Progress, Summary
    from joycap_vllm.job.records import Record, is_writable, read_records, state_folder
    from joycap_vllm.job.report import Report, make_report
    from joycap_vllm.job.run import run_job
    from joycap_vllm.job.settings import JobSettings, check_settings
    from joycap_vllm.job.standing import Standing, Writer, find_state, standing_of
    from joycap_vllm.job.status import StatusFile, told
    from joycap_vllm.job.stop import Stop
    from joycap_vllm.job.stored import StoredJob, load_job
    from joycap_vllm.job.telling import line_of, report_data


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"joycap_vllm.job.{_HOMES[name]}"), name)
