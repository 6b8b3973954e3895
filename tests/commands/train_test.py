"""The report of a run that ends, is stopped, or cannot be reported."""

import pytest
from etils import epath

from mapo_jax import errors, report
from mapo_jax.commands import train
from mapo_jax.run import trainer
from tests.report.report_test import FEW, make_run
from tests.runs import micro


def run(tmp_path, monkeypatch, ends, records=True, **changes):
    """Runs a training that records two steps, or nothing, and then ends as told."""

    def training(config, workdir, overrides):
        if records:
            make_run(tmp_path / "run", FEW)
        if ends is not None:
            raise ends

    monkeypatch.setattr(trainer, "train", training)
    train.run(micro(**changes), epath.Path(tmp_path / "run"))


def test_a_finished_run_is_reported(tmp_path, monkeypatch, capsys):
    run(tmp_path, monkeypatch, None, log__console="quiet")
    assert capsys.readouterr().out == f"report: {tmp_path}/run/report.html\n"
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("kind", [errors.UserError, errors.RunStopped, errors.Preempted])
def test_a_stopped_run_is_reported(tmp_path, monkeypatch, kind):
    with pytest.raises(kind):
        run(tmp_path, monkeypatch, kind("stopped"))
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_that_did_not_begin_is_not(tmp_path, monkeypatch):
    """A mistake; the directory may be another's."""
    make_run(tmp_path / "run", FEW)
    with pytest.raises(errors.UserError):
        run(tmp_path, monkeypatch, errors.UserError("a mistake"), records=False)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_fails_is_no_failed_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise TypeError("unhashable")

    monkeypatch.setattr(report, "write", fail)
    run(tmp_path, monkeypatch, None)
    said = " ".join(capsys.readouterr().out.split())
    assert said == (
        "report: not written (TypeError: unhashable); python launch/report.py "
        f"{tmp_path}/run tries again"
    )
    with pytest.raises(errors.RunStopped, match="stopped"):
        run(tmp_path / "b", monkeypatch, errors.RunStopped("stopped"))
