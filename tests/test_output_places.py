"""Where results go is checked before any work, folders are made, and a result is told although writing it fails."""

from pathlib import Path

import pytest
import torch
from file_kinds import adapted, backbone, linear
from torch import nn
from typer.testing import CliRunner

import autoadapt as aa
from autoadapt.cli import app
from autoadapt.errors import AdaptError, SavingError
from autoadapt.weights.command import transfer_command

IMAGE = torch.zeros(1, 3, 8, 8)


class NeverRunError(Exception):
    """Work was begun."""


class NeverRun(nn.Module):
    def forward(self, x):
        raise NeverRunError


def images():
    raise NeverRunError
    yield


PLACES = {
    "save": lambda place: aa.save(adapted(), place / "a"),
    "to_source": lambda place: aa.to_source(adapted(), place / "a.py"),
    "export": lambda place: aa.export(adapted(), place / "a.pt2"),
    "write_html": lambda place: aa.write_html(place / "a.html", adapted().plan),
    "signature": lambda place: adapted().signature.save(place / "a.json"),
    "rank": lambda place: aa.rank({"a": NeverRun()}, NeverRun(), inputs=IMAGE, state=place / "a.jsonl"),
    "calibrate": lambda place: aa.calibrate(adapted(), like=backbone(), data=images(), state=place / "a.st"),
}


@pytest.mark.parametrize("verb", PLACES)
def test_a_place_below_a_file_is_refused_before_any_work(verb, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdaptError) as caught:
        PLACES[verb](tmp_path / "file")
    assert "NotADirectoryError" in str(caught.value) or "FileExistsError" in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


class Empty:
    """Stands for a folder; whatever lies in it is an empty text."""

    def __truediv__(self, name):
        return ""


@pytest.mark.parametrize("verb", PLACES)
def test_an_empty_place_is_refused_by_text(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdaptError, match="is empty, and nothing was done") as caught:
        PLACES[verb](Empty())
    [fault] = caught.value.mismatches
    assert fault.remedy == ('"."      for the working folder' if verb == "save" else "name a file")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("verb", PLACES)
def test_a_place_that_only_shells_expand_is_refused_and_no_folder_of_that_name_is_made(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdaptError, match="begins with ~, which only shells expand") as caught:
        PLACES[verb](Path("~"))
    [fault] = caught.value.mismatches
    assert fault.remedy.startswith(f'"{Path.home()}')
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["save", "to_source", "export", "signature"])
def test_a_link_to_a_folder_that_is_not_there_yet_is_followed(verb, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "runs")
    PLACES[verb](tmp_path / "link" / "deep")
    PLACES[verb](tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len([*(tmp_path / "disk" / "runs").iterdir()]) > 1


def test_a_whole_model_goes_through_such_a_link_too(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    aa.save(nn.Sequential(adapted(), nn.ReLU()), tmp_path / "link")
    again = aa.restore(tmp_path / "link", model=nn.Sequential(backbone(), nn.ReLU()), new={"0": adapted().backbone})
    assert isinstance(again[0], aa.AdaptedModule)


def test_an_empty_folder_on_the_command_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["adapt", "never.py:x", "--like", "never.py:y", "--out", ""])
    assert done.exit_code == 2
    assert "an empty path" in done.output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [verb for verb in PLACES if verb not in ("rank", "calibrate", "export")])
def test_folders_are_made(verb, tmp_path):
    PLACES[verb](tmp_path / "new" / "deep")
    assert any((tmp_path / "new" / "deep").iterdir())


@pytest.mark.parametrize("verb", ["rank", "calibrate", "export"])
def test_nothing_is_left_of_a_place_where_nothing_came(verb, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoadapt.saving.exporting.exports._Export.write", stopped)
    monkeypatch.setattr("autoadapt.ranking.journals._write", stopped)
    with pytest.raises((NeverRunError, AdaptError, KeyboardInterrupt)):
        PLACES[verb](tmp_path / "new" / "deep")
    assert not any(tmp_path.iterdir())


COMMANDS = {
    "capture --html": ["capture", "never.py:x", "--html"],
    "plan --html": ["plan", "never.py:x", "--like", "never.py:y", "--html"],
    "adapt --source": ["adapt", "never.py:x", "--like", "never.py:y", "--source"],
    "adapt --out": ["adapt", "never.py:x", "--like", "never.py:y", "--out"],
    "rank --picture": ["rank", "never.py:x", "--like", "never.py:y", "--picture"],
    "assemble --out": ["assemble", "never.yaml", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_checks_its_places_first(command, tmp_path):
    (tmp_path / "file").write_text("x")
    done = CliRunner().invoke(app, [*COMMANDS[command], str(tmp_path / "file" / "a.svg")])
    assert done.exit_code == 2
    assert "NotADirectoryError" in done.output or "FileExistsError" in done.output
    assert "never" not in done.output


def test_a_report_is_told_although_it_cannot_be_written(tmp_path):
    torch.save(linear().state_dict(), tmp_path / "a.pth")
    told = []

    def spoil(result):
        told.append(result)
        (tmp_path / "out.safetensors").mkdir()

    with pytest.raises(SavingError):
        transfer_command(tmp_path / "a.pth", linear(), output=tmp_path / "out.safetensors", told=spoil)
    assert told[0].coverage == 1
