"""Where outputs may go: what is wrong with a name is said before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from joycap_vllm.errors import UsageError
from joycap_vllm.outputs import FILES, FORMS, folder_of, place_of


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_that_is_there_or_not_is_taken(form: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new" / "folder"):
        place = place_of(form, folder)  # type: ignore[arg-type]

        assert folder_of(form, place) == folder  # type: ignore[arg-type]
        assert place.name == FILES.get(form, folder.name)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_the_place_of_a_folder_is_refused(form: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    for out in (tmp_path / "photo.png", tmp_path / "photo.png" / "deeper"):
        with pytest.raises(UsageError, match=r"photo\.png"):
            place_of(form, out)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_a_device_is_refused(form: str) -> None:
    with pytest.raises(UsageError, match="/dev/null"):
        place_of(form, Path("/dev/null"))  # type: ignore[arg-type]


def test_a_folder_with_a_files_name_is_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl" / "captions.jsonl").mkdir(parents=True)

    with pytest.raises(UsageError, match="no regular file"):
        place_of("jsonl", tmp_path / "a.jsonl")


@pytest.mark.parametrize("form", FORMS)
def test_stdout_is_no_place_for_outputs(form: str) -> None:
    with pytest.raises(UsageError, match="stdout"):
        place_of(form, Path("-"))  # type: ignore[arg-type]
