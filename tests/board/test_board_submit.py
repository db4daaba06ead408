"""Entries in one file: what is honest arrives whole, and what was changed on the way is refused."""

import json
import zipfile
from pathlib import Path

import pytest
from board import submit
from board.canonical import sealed
from entered import call, tamper


def test_a_file_that_would_fill_the_disk_is_refused(folder, capsys, monkeypatch):
    packed = folder / "entry.zip"
    call(folder, capsys, "--entry", "heuristic", "--out", packed, command="submit")
    monkeypatch.setattr(submit, "MOST", 100)
    with pytest.raises(SystemExit):
        call(folder, capsys, results=packed)
    assert "holds more than 100 bytes" in capsys.readouterr().err


def test_an_entry_is_packed_and_verified_from_its_file(folder, capsys):
    packed = folder / "entry.zip"
    code, out = call(folder, capsys, "--entry", "esper_ppo", "--out", packed, command="submit")
    assert code == 0, out
    first = packed.read_bytes()
    call(folder, capsys, "--entry", "esper_ppo", "--out", packed, command="submit")
    assert packed.read_bytes() == first
    code, out = call(folder, capsys, results=packed)
    assert (code, out.count("ok: esper_ppo, training seed 1 on T1-seeds-00 (3x2), 2 episodes")) == (0, 1)


def test_a_file_in_which_something_was_changed_is_refused(folder, capsys, tmp_path):
    packed = folder / "entry.zip"
    call(folder, capsys, "--entry", "heuristic", "--out", packed, command="submit")
    with zipfile.ZipFile(packed) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents["manifest.json"])
    assert set(manifest["files"]) == set(contents) - {"manifest.json"}
    assert (manifest["entry"], manifest["episodes"]) == ("heuristic", 2)
    result = next(name for name in contents if name.endswith("episodes.json"))
    outside = sealed(manifest | {"files": {"../x": manifest["files"][result]}})
    changes = {
        f"{result} is not what manifest.json says": {**contents, result: contents[result] + b" "},
        "holds other files than its manifest.json says": {**contents, "more": b""},
        "manifest.json was changed": {
            **contents,
            "manifest.json": json.dumps(manifest | {"episodes": 3}).encode(),
        },
        "'../x' would lie outside": {
            "manifest.json": json.dumps(outside).encode(),
            "../x": contents[result],
        },
        "can't be read: KeyError": {result: contents[result]},
    }
    for change in ({"chain": "0" * 64}, {"hardware": []}, {"training_seeds": ["1"]}, {"more": 1}):
        [name] = change
        said = {**contents, "manifest.json": json.dumps(sealed(manifest | change)).encode()}
        changes[f"manifest.json says something else than the results do: ['{name}']"] = said
    without = {name: value for name, value in manifest.items() if name != "chain"}
    said = {**contents, "manifest.json": json.dumps(sealed(without)).encode()}
    changes["than the results do: ['chain']"] = said
    for message, changed in changes.items():
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        with pytest.raises(SystemExit):
            call(folder, capsys, results=tmp_path / "bad.zip")
        assert message in capsys.readouterr().err
    assert not Path(tmp_path / "x").exists()


def test_what_is_wrong_is_not_packed(folder, capsys):
    tamper(folder, "heuristic", lambda v: v["episodes"][0].update(param_ratio=3.5))
    code, out = call(folder, capsys, "--entry", "heuristic", "--out", folder / "e.zip", command="submit")
    assert code == 1
    assert "3.500x parameters" in out
    assert not (folder / "e.zip").exists()
