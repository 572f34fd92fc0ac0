"""What is to be done, found while inputs are still being read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm import build_prompt
from joycap_vllm.job import Agenda, JobSettings, Plan, Progress, agenda, read_records
from joycap_vllm.job.homes import Homes
from joycap_vllm.job.plan import Passed, PlannedImage
from joycap_vllm.outputs import SidecarOptions, Sidecars
from joycap_vllm.sources import FilePlace, Source, SourceImage, open_source
from joycap_vllm.sources.image import NoPlace

PROMPT = build_prompt("descriptive")


class Keys:
    """A part of a source that has just keys."""

    may_repeat = True
    beside = False

    def __init__(self, keys: Sequence[str]) -> None:
        self.unreadable: dict[Path | str, str] = {}
        self._keys = keys

    def images(self) -> Iterator[SourceImage]:
        return (SourceImage(key, NoPlace("nowhere")) for key in self._keys)

    def count(self) -> int:
        return len(self._keys)


def settings_of(root: Path, keys: Sequence[str], **more: object) -> JobSettings:
    sidecars = SidecarOptions((PROMPT.name,), root)
    source = Source(root, (Keys(keys),))
    return JobSettings(source, (PROMPT,), sidecars, root / ".joycap", form="jsonl", **more)  # type: ignore[arg-type]


def record(settings: JobSettings, keys: Sequence[str], outcome: str = "ok") -> None:
    settings.state.mkdir(exist_ok=True)
    fingerprint = settings.fingerprints()[PROMPT.name]
    lines = [
        {"v": 1, "key": key, "prompt": PROMPT.name, "fp": fingerprint, "outcome": outcome,
         "caption": "A dog.", "t": 1.0}
        for key in keys
    ]  # fmt: skip
    with (settings.state / "journal-x-1.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def plan_of(settings: JobSettings) -> Plan:
    return Plan(settings, read_records(settings.state))


def asked(plan: Plan) -> list[str]:
    return [step.image.key for step in plan.steps() if isinstance(step, PlannedImage)]


def passed(plan: Plan) -> int:
    return sum(step.tasks.total() for step in plan.steps() if isinstance(step, Passed))


def test_what_no_journal_tells_of_comes_before_what_one_does(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ["a", "b", "c", "d"])
    record(settings, ["a"], "failed")
    record(settings, ["c"])

    assert asked(plan_of(settings)) == ["b", "d", "a"], "a failed one may have been mended"
    assert passed(plan_of(settings)) == 1


def test_a_key_that_comes_twice_is_asked_once(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ["a", "b", "a", "c", "c"])
    record(settings, ["c"])
    plan = plan_of(settings)

    assert asked(plan) == ["a", "b"]
    assert plan.repeated == 2


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.sets(st.sampled_from("abcdefghij")))
def test_every_key_is_either_asked_or_passed_once(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], done: set[str]
) -> None:
    settings = settings_of(tmp_path_factory.mktemp("job"), keys)
    record(settings, sorted(done))
    plan = plan_of(settings)

    assert sorted(asked(plan)) == sorted(set(keys) - done)
    assert passed(plan_of(settings)) == len(set(keys) & done)


def test_shards_share_all_keys_between_them(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(200)]
    parts = [asked(plan_of(settings_of(tmp_path, keys, shard=(i, 3)))) for i in (1, 2, 3)]

    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(30 < len(part) < 110 for part in parts)


def test_a_limit_takes_the_first_and_a_sample_any_but_always_the_same(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(50)]
    sampled = [asked(plan_of(settings_of(tmp_path, keys, sample=7))) for _ in range(2)]

    assert asked(plan_of(settings_of(tmp_path, keys, limit=3))) == keys[:3]
    assert sampled[0] == sampled[1]
    assert len(sampled[0]) == 7


async def test_a_small_job_is_known_whole_before_it_begins(tmp_path: Path) -> None:
    settings, progress = settings_of(tmp_path, ["a", "b", "c"]), Progress()
    record(settings, ["b"])
    work = Agenda(plan_of(settings), progress)
    survey = await work.look()

    assert (survey.whole, survey.images, survey.tasks, survey.todo) == (True, 3, 3, 2)
    assert progress.total == 3
    assert progress.counts["skipped"] == 1
    assert [planned.image.key for planned in await work.take()] == ["a", "c"]
    assert work.ended
    assert await work.take() == []


async def test_a_large_job_begins_before_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agenda, "_AHEAD", 10)
    keys = [f"k{number}" for number in range(2000)]
    settings, progress = settings_of(tmp_path, keys), Progress()
    work = Agenda(plan_of(settings), progress)
    survey = await work.look()

    assert not survey.whole
    assert survey.images < 2000
    assert plan_of(settings).estimate() == 2000
    found = []
    while not work.ended:
        found += await work.take()
    assert [planned.image.key for planned in found] == keys
    assert progress.total == 2000
    assert not progress.counting


async def test_a_long_search_ends_where_the_first_work_is(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(5000)]
    settings, progress = settings_of(tmp_path, keys), Progress()
    record(settings, keys[:-1])
    survey = await Agenda(plan_of(settings), progress).look()

    assert survey.todo == 1
    assert survey.first[0].image.key == keys[-1]


HOSTILE = ["../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "..", ".", "a/../../b", ".hidden"]


@given(st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=40)))
def test_sidecars_of_images_that_are_no_files_stay_in_their_folder(key: str) -> None:
    root = Path("/captions")
    sidecars = Sidecars(SidecarOptions(("d",), Path("/in"), out=root))
    target, _ = Homes(sidecars, Path("/in"), read_records(Path("/nowhere"))).of(
        SourceImage(key, NoPlace(""))
    )
    file = target.files["d"]

    assert file.is_relative_to(root)
    assert ".." not in file.parts
    assert "\0" not in str(file)
    assert all(len(part.encode("utf-8", "surrogatepass")) <= 255 for part in file.parts)


@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=12))
def test_no_two_keys_share_a_sidecar(keys: set[str]) -> None:
    sidecars = Sidecars(SidecarOptions(("d",), Path("/in"), out=Path("/captions")))
    homes = Homes(sidecars, Path("/in"), read_records(Path("/nowhere")))
    files = [homes.of(SourceImage(key, NoPlace("")))[0].files["d"] for key in keys]

    assert len(set(files)) == len(keys)


def test_a_key_takes_no_sidecar_of_a_file_or_of_another_keys_second_caption(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").touch()
    sidecars = Sidecars(SidecarOptions(("d", "tags"), tmp_path))
    homes = Homes(sidecars, tmp_path, read_records(tmp_path))
    images = [
        SourceImage("a.png", FilePlace(f"{tmp_path}/a.png")),
        *(SourceImage(key, NoPlace("")) for key in ("a", "b", "b.tags")),
    ]
    files = [file for image in images for file in homes.of(image)[0].files.values()]

    assert len(set(files)) == 8
    assert files[0].name == "a.txt"


def test_rows_of_a_manifest_have_the_sidecars_that_their_folder_would_give_them(
    tmp_path: Path,
) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / name).touch()
    sidecars = Sidecars(SidecarOptions(("d",), tmp_path))
    homes = Homes(sidecars, tmp_path, read_records(tmp_path))
    names = ["b.png", "a.png", "a.jpg"]
    files = [
        homes.of(SourceImage(name, FilePlace(f"{tmp_path}/{name}")))[0].files["d"].name
        for name in names
    ]

    assert files == ["b.txt", "a.png.txt", "a.txt"]
    assert [i.key for i in open_source([str(tmp_path)]).images()] == sorted(names)
