"""State and results are on the disk as a whole or not at all, and are one process's at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from carpool.errors import ConfigurationError
from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.options import Options
from cli.bulk.partial import NOWHERE, opened_partial
from cli.bulk.plan import Limits, Plan, make_plan
from cli.bulk.replacement import replacing, require_directory
from cli.bulk.source import Source, settled
from cli.bulk.state import Fingerprint, State, begun, fingerprint, load_state

BYTES = 200_000_000
KILLED = """
import os, signal, sys
from pathlib import Path
from cli.bulk.replacement import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\n")
    kind, options = settled(path, Options(model="m"))
    return make_plan(Source(path, kind, options), Limits(requests=2, bytes=BYTES))


@pytest.fixture
def state(plan: Plan) -> State:
    return begun(
        Fingerprint(sha256="0" * 64, bytes=3),
        Options(model="m", metadata={"a": "b"}),
        Limits(requests=2, bytes=BYTES),
        "http://127.0.0.1:1/v1",
        plan,
    )


def test_a_state_is_read_as_it_was_saved(tmp_path: Path, state: State) -> None:
    state.parts[1].file_id, state.parts[0].cursor, state.partial_bytes = "file-1", "c", 7
    state.save(tmp_path / "state.json")
    assert load_state(tmp_path / "state.json") == state
    assert [path.name for path in tmp_path.glob("state*")] == ["state.json"]


def test_a_state_has_the_parts_as_they_were_planned(state: State, plan: Plan) -> None:
    assert tuple(part.part for part in state.parts) == plan.parts
    assert len({state.file_name(part) for part in state.parts}) == 2


def test_there_may_be_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.json") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"\xff"])
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(BadInput, match="is not the state of a submission"):
        load_state(tmp_path / "state.json")


def test_a_state_of_another_version_is_refused(tmp_path: Path, state: State) -> None:
    state.version += 1
    state.save(tmp_path / "state.json")
    with pytest.raises(BadInput, match="another version"):
        load_state(tmp_path / "state.json")


def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    a, b, c = (fingerprint(tmp_path / name) for name in "abc")
    assert a == b != c
    assert a.bytes == 3
    with pytest.raises(BadInput, match="cannot read"):
        fingerprint(tmp_path / "none")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(UnicodeEncodeError), replacing(path) as file:
        file.write(b"half" + "\ud800".encode())
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_a_kill_while_a_file_is_replaced_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_directory_that_takes_no_file_is_told(tmp_path: Path) -> None:
    require_directory(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="cannot write to"):
        require_directory(tmp_path / "none" / "out")


def test_results_are_the_process_s_that_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    with opened_partial(path) as partial:
        with pytest.raises(BadInput, match="another `carpool submit`"), opened_partial(path):
            pass
        partial.append(b"line\n")
    with opened_partial(path) as partial:
        assert partial.size() == 5


def test_no_empty_file_of_results_stays(tmp_path: Path) -> None:
    with opened_partial(tmp_path / "partial") as partial:
        partial.append(b"line\n")
        partial.cut(0)
    assert not (tmp_path / "partial").exists()


def test_lines_beyond_the_cut_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    path.write_bytes(b"one\ntwo\nha")
    with opened_partial(path) as partial:
        partial.cut(4)
        assert partial.append(b"three\n") == 10
    assert path.read_bytes() == b"one\nthree\n"


def test_the_places_of_lines_are_found(tmp_path: Path, plan: Plan) -> None:
    with opened_partial(tmp_path / "partial") as partial:
        third, first = b'{"custom_id":"row-3"}\n', b'{"custom_id":"row-1"}\n'
        partial.append(third + first)
        assert list(partial.places(plan)) == [len(third), NOWHERE, 0]
        assert partial.line_at(len(third)) == first


def test_a_result_that_nobody_asked_for_is_told(tmp_path: Path, plan: Plan) -> None:
    with opened_partial(tmp_path / "partial") as partial:
        partial.append(b'{"custom_id":"row-4"}\n')
        with pytest.raises(CannotGoOn, match="not asked"):
            partial.places(plan)
