"""A module runs as its own program, compiled once, or as its Python twin; which one, and why, is said."""

import asyncio
import sys
from pathlib import Path

import pytest

from flui.runtime.processes import StartError
from flui.runtime.programs import Program, program_of
from flui.runtime.topology import Module

MAKE = "import pathlib, sys; out = pathlib.Path(sys.argv[1]); out.write_text('made'); out.chmod(0o755); open('made', 'a').write('x')"


def module(folder, command=(), build=(), twin=()):
    return Module("stock-1", Path(folder), tuple(command), (), tuple(build), tuple(twin), 1)


def find(folder, cache, **told):
    said = []
    return asyncio.run(program_of(module(folder, **told), cache, said.append)), said


def test_a_python_module_runs_in_the_python_that_runs_us(tmp_path):
    program, said = find(tmp_path, tmp_path, command=["python3", "main.py"])
    assert program == Program((sys.executable, "main.py"), "python3")
    assert said == []


def test_a_missing_runtime_is_replaced_by_the_twin_and_said_so(tmp_path):
    program, said = find(tmp_path, tmp_path, command=["no-such-runtime", "server.js"], twin=["python3", "twin.py"])
    assert program == Program((sys.executable, "twin.py"), "python3 (twin)")
    assert said == [f"{tmp_path.name}: no-such-runtime is not installed here; its Python twin twin.py runs instead"]


def test_without_a_twin_a_missing_runtime_is_an_error_that_tells_the_way_out(tmp_path):
    with pytest.raises(
        StartError, match=r"stock-1: no-such-runtime is not installed here; install it, or give the module a twin under x-flui"
    ):
        find(tmp_path, tmp_path, command=["no-such-runtime"])


def test_a_module_is_compiled_once_until_its_files_change(tmp_path):
    folder, cache = tmp_path / "stock", tmp_path / "cache"
    folder.mkdir()
    (folder / "main.go").write_text("one")
    build = ["python3", "-c", MAKE.replace("open('made'", f"open({str(tmp_path / 'made')!r}"), "{binary}"]
    first, said = find(folder, cache, build=build)
    assert Path(first.command[0]).read_text() == "made"
    assert len(said) == 1
    assert find(folder, cache, build=build) == (first, [])
    assert (tmp_path / "made").read_text() == "x"
    (folder / "main.go").write_text("two")
    second, _ = find(folder, cache, build=build)
    assert second.command != first.command
    assert (tmp_path / "made").read_text() == "xx"
    assert sorted(path.name for path in (cache / "modules").iterdir()) == sorted(Path(one.command[0]).name for one in (first, second))


def test_what_does_not_compile_is_replaced_by_the_twin(tmp_path):
    build = ["python3", "-c", "import sys; sys.exit('go: no network')", "{binary}"]
    program, said = find(tmp_path, tmp_path / "cache", build=build, twin=["python3", "twin.py"])
    assert program.runtime == "python3 (twin)"
    assert said[-1] == f"{tmp_path.name}: python3 could not compile it; its Python twin twin.py runs instead"


def test_what_does_not_compile_and_has_no_twin_tells_the_compilers_last_words(tmp_path):
    with pytest.raises(StartError) as caught:
        find(tmp_path, tmp_path / "cache", build=["python3", "-c", "import sys; sys.exit('go: no network')", "{binary}"])
    assert caught.value.last == ("go: no network",)
