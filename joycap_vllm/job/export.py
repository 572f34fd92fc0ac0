"""Any output of a job, made from its journals."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.job.captions import Captions
from joycap_vllm.job.export_tar import export_shards
from joycap_vllm.job.gathering import CLASH, Gathered
from joycap_vllm.job.plan import Passed, Plan
from joycap_vllm.job.progress import Progress
from joycap_vllm.job.records import Records, read_journals, read_records
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.job.table import Seen
from joycap_vllm.job.writing import write_captions
from joycap_vllm.outputs import (
    FILES,
    NO_CAPTION,
    Asked,
    CaptionedImage,
    Form,
    Write,
    finetune_writer,
    imagefolder_writer,
    jsonl_writer,
    kohya_writer,
    parquet_writer,
    place_of,
)
from joycap_vllm.sources import Source, open_source, unescaped_text


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Args:
        form: The format.
        images: Images that were looked at.
        rows: Those of them that are in the output.
        captions: Captions that these have.
        left_out: The others by why they are not.
        files: What was written; of sidecars nothing.
    """

    form: Form
    images: int
    rows: int
    captions: int
    left_out: Mapping[str, int]
    files: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether everything with a caption is in it."""
        return not self.left_out.keys() - {NO_CAPTION}


def export_job(
    job: StoredJob,
    form: Form,
    out: Path | None = None,
    *,
    source: Source | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Writes one output of a job, whole or not at all; shards each for itself.

    The journals are read anew, under a lock: of two exports at once the later one sees all. What
    is synced to them later is not in it.

    Args:
        job: The job.
        form: The format.
        out: A file with the format's suffix, or a folder; None takes `default_out`.
        source: Where the job's images come from. Tars and sidecars need it, and take the job's own
            inputs without it. Given for the others, images are those of the source, in its order,
            else those of the journals.
        say: Told that another export is waited for.

    Raises:
        UsageError: `out` cannot be what it is, or the job's inputs cannot be opened.
        MissingExtraError: The format needs a library that is not installed.
        OutputError: A journal cannot be read, or the output cannot be written.
    """
    place = out_of(job, form, out)
    if form in ("tar", "txt") and source is None:
        source = open_inputs(job)
    with _alone(job.state, say):
        return _written(job, read_records(job.state), {}, form, place, source)


def export_gathered(
    jobs: Gathered,
    form: Form,
    out: Path | None = None,
    *,
    source: Source | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Writes one output of several jobs as if they were one, as `export_job` does.

    Of a task that several have, an ok record goes before one that is not, then the latest counts.

    Args:
        jobs: The jobs.
        form: The format.
        out: As for `export_job`; several jobs have no place of their own but for sidecars.
        source: As for `export_job`; tars and sidecars of several jobs need it where the jobs did
            not read the same.
        say: Told that another export is waited for.

    Raises:
        UsageError, MissingExtraError, OutputError: As `export_job`.
    """
    job = jobs.job
    if out is None and form != "txt" and not jobs.is_one:
        raise UsageError("--out FILE is needed: several jobs have no folder in common")
    place = out_of(job, form, out)
    if form in ("tar", "txt") and source is None:
        source = open_inputs(job)
    with _alone(job.state, say):
        records = read_journals(jobs.journals)
        done = _written(job, records, jobs.roots, form, place, source)
    if not records.clashes:
        return done
    return replace(done, left_out={**done.left_out, CLASH: records.clashes})


def _written(
    job: StoredJob,
    records: Records,
    roots: Mapping[Path, Path],
    form: Form,
    place: Path,
    source: Source | None,
) -> Exported:
    if form == "txt":
        return _sidecars(job, records, place, source or open_inputs(job))
    with Captions(job, records, roots) as captions:
        if form == "tar":
            counts, total, files = export_shards(
                captions, source or open_inputs(job), place, job, records
            )
        else:
            images = captions.all() if source is None else _of_source(captions, source)
            counts, total = _rows(_WRITERS[form](place, job), images)
            files = (place,)
    rows = counts.pop("", 0)
    return Exported(form, rows + counts.total(), rows, total, dict(counts), files)


def export_output(settings: JobSettings, say: Callable[[str], None]) -> Exported:
    """Writes the output of a job that has just run, as `export_job` does.

    Raises:
        UsageError, OutputError: As `export_job`.
    """
    # Rows of tables name images by their keys alone; the other forms need the images' files.
    by_key = settings.form in ("jsonl", "parquet") or settings.only is not None
    source = None if by_key else settings.source
    return export_job(settings.stored(), settings.form, settings.out, source=source, say=say)


def default_out(job: StoredJob, form: Form) -> Path:
    """Where an output goes that nobody says otherwise of: into the job's folder; an image folder's
    metadata beside the images."""
    root = job.sidecars.root
    if form == "txt":
        return job.sidecars.out or root
    home = job.state.parent if job.state.name == ".joycap" else job.state
    if form == "tar":
        return home / "shards"
    return (root if form == "imagefolder" else home) / FILES[form]


def out_of(job: StoredJob, form: Form, out: Path | None) -> Path:
    """The file or the folder of an output, absolute.

    Raises:
        UsageError: The name has the suffix of another format, or is that of a file where a folder
            is needed.
    """
    if out is None:
        return default_out(job, form)
    return place_of(form, out)


def open_inputs(job: StoredJob) -> Source:
    """What the job's last run read.

    Raises:
        UsageError: It is not known, or no longer there.
    """
    if not job.inputs:
        raise UsageError(
            f"the job in {job.state} does not tell what it read, or not all of them read the same: "
            "name it with --source INPUT"
        )
    try:
        return open_source([unescaped_text(text) for text in job.inputs])
    except UsageError as error:
        raise UsageError(
            f"what the job read cannot be opened: {error}. --source INPUT names another place"
        ) from error


def asked_of(job: StoredJob) -> tuple[Asked, ...]:
    """The job's prompts as outputs tell of them."""
    tagged = job.sidecars.tag_prompts
    return tuple(Asked(p.name, p.text, p.name in tagged) for p in job.prompts)


_WRITERS: dict[str, Callable[[Path, StoredJob], contextlib.AbstractContextManager[Write]]] = {
    "jsonl": lambda path, job: jsonl_writer(path, asked_of(job)),
    "parquet": lambda path, job: parquet_writer(path, asked_of(job)),
    "kohya": lambda path, job: kohya_writer(path, asked_of(job)),
    "imagefolder": lambda path, job: imagefolder_writer(path, asked_of(job)),
    "finetune": lambda path, job: finetune_writer(path, asked_of(job), job.sidecars.root),
}


def _rows(
    writer: contextlib.AbstractContextManager[Write], images: Iterator[CaptionedImage]
) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    captions = 0
    with writer as write:
        for image in images:
            why = write(image)
            counts[why] += 1
            captions += 0 if why else len(image.captions)
    return counts, captions


def _of_source(captions: Captions, source: Source) -> Iterator[CaptionedImage]:
    """The images of a source of which the journals tell, each once."""
    seen = Seen() if source.may_repeat else None
    for image in source.images():
        if seen is not None and not seen.add(image.key):
            continue
        found = captions.of(image.key, image.path)
        if found is not None:
            yield found


def _sidecars(job: StoredJob, records: Records, out: Path, source: Source) -> Exported:
    beside = out == job.sidecars.root
    sidecars = replace(job.sidecars, out=None if beside else out)
    settings = JobSettings(source, job.prompts, sidecars, job.state, on_glitch=job.on_glitch)
    progress, plan = Progress(), Plan(settings, records)
    images, outcomes = 0, Counter[str]()
    for step in plan.steps():
        if isinstance(step, Passed):
            images, outcomes = images + step.images, outcomes + step.tasks
        else:
            images, outcomes = images + 1, outcomes + step.settled()
            write_captions(plan, step, step.done, {}, progress)
    left_out = {"a sidecar that cannot be written": progress.unwritten}
    return Exported(
        "txt",
        images,
        images,
        outcomes["ok"],
        {why: count for why, count in left_out.items() if count},
        (),
    )


@contextlib.contextmanager
def _alone(state: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        lock = os.open(state / "export.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # a journal that can only be read: outputs are whole without a lock too
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another export of this job is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)
