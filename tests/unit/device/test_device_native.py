"""Finding sources and compiler, and building with a real compiler into a cache."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.errors import DeviceError

needs_compiler = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(native.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "native"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "twice.cc"
    path.write_text('extern "C" int twice(int x) { return FACTOR * x; }\n')
    return path


def test_the_checkout_s_sources_are_found():
    root = native.source_dir()
    assert root is not None and (root / "ops").is_dir()


def test_paddle_is_identified_without_importing_it(start):
    code = (
        "import sys; from mix_core.device import native;"
        "print(native.paddle_identity(), 'paddle' in sys.modules)"
    )
    identity, imported = start(["-c", code]).stdout.split()
    version, _, commit = identity.partition("+")
    import paddle

    assert (version, commit, imported) == (paddle.version.full_version, paddle.version.commit, "False")


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler, reason = native.find_compiler()
    assert compiler is None and "install g++" in reason
    assert not native.status().possible and "install g++" in native.status().reason
    monkeypatch.setenv("CXX", "clang-of-tomorrow")
    assert "clang-of-tomorrow" in native.find_compiler()[1]


def test_an_old_compiler_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake = tmp_path / "g++"
    fake.write_text(
        "#!/bin/sh\necho 'g++ (Ubuntu 8.4.0-1ubuntu1) 8.4.0'\necho 'Free Software Foundation, Inc.'\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    compiler, reason = native.find_compiler()
    assert compiler is None and "8.4.0 is too old" in reason


@needs_compiler
def test_a_library_is_built_once_and_works(cache: Path, source: Path):
    library = native.build("twice", [source], ["-DFACTOR=2"])
    assert library.is_relative_to(cache)
    assert ctypes.CDLL(str(library)).twice(21) == 42
    written = library.stat().st_mtime_ns
    assert native.build("twice", [source], ["-DFACTOR=2"]) == library
    assert library.stat().st_mtime_ns == written
    assert native.status().built == (str(library.relative_to(cache)),)


@needs_compiler
def test_joined_sources_are_compiled_as_one(cache: Path, tmp_path: Path):
    (first := tmp_path / "first.cc").write_text("static int three() { return 3; }\n")
    (second := tmp_path / "second.cc").write_text('extern "C" int nine() { return three() * three(); }\n')
    library = native.build("nine", [first, second], joined=True)
    assert ctypes.CDLL(str(library)).nine() == 9
    second.write_text('extern "C" int nine() { return 9; }\n')
    assert native.build("nine", [first, second], joined=True) != library


@needs_compiler
def test_flags_and_sources_make_another_key(cache: Path, source: Path):
    first = native.build("twice", [source], ["-DFACTOR=2"])
    other_flags = native.build("twice", [source], ["-DFACTOR=3"])
    source.write_text(source.read_text() + "// changed\n")
    other_source = native.build("twice", [source], ["-DFACTOR=2"])
    assert len({first, other_flags, other_source}) == 3


@needs_compiler
def test_a_compiler_s_error_is_shown_and_leaves_no_library(cache: Path, source: Path):
    source.write_text("int broken( {\n")
    with pytest.raises(DeviceError, match=r"cannot build twice: .*twice\.cc:1:.*error") as caught:
        native.build("twice", [source])
    assert "\n" not in str(caught.value)
    assert list(cache.glob("*/*.so")) == []
    assert [path.name for path in cache.glob("*/*.log")] == ["twice.log"]


@needs_compiler
def test_processes_that_build_at_once_agree(cache: Path, source: Path):
    code = (
        "import sys; from pathlib import Path; from mix_core.device import native;"
        "print(native.build('twice', [Path(sys.argv[1])], ['-DFACTOR=5']))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(source)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(answers) == 1
    assert ctypes.CDLL(answers.pop()).twice(1) == 5
    assert len(list(cache.glob("*/*.so"))) == 1


def test_a_cache_that_cannot_be_made_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv(native.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DeviceError, match=r"cannot build twice: .*set MIX_CACHE|no C\+\+ compiler"):
        native.build("twice", [source])
