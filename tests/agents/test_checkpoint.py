"""A file is replaced whole or not at all."""

import multiprocessing
import os
import signal
import time

import pytest

from esper_agents.checkpoint import read_record, write_atomic, write_checkpoint


def _write_for_ever(path, started):
    content = 0
    while True:
        write_atomic(path, bytes([content]) * 2_000_000)
        started.set()
        content = (content + 1) % 256


def test_a_writer_that_is_killed_at_any_time_leaves_one_whole_content(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("spawn")
    for delay in (0.0, 0.003, 0.011):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(path, started))
        writer.start()
        assert started.wait(30)
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = path.read_bytes()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_holds_its_record_beside_the_model(tmp_path):
    import io
    import zipfile

    model = io.BytesIO()
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("policy.pth", b"tensors")
    record = {"config": {"algo": "ppo"}, "state": {"timesteps": 3}}
    write_checkpoint(tmp_path / "c.zip", model.getvalue(), record)
    assert read_record(tmp_path / "c.zip") == record
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert archive.read("policy.pth") == b"tensors"
