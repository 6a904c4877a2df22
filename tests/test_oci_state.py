"""The state directory: ids, locks, statuses, damage, full disks, and commands killed at any moment."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pysandbox.oci import jsontext, state, undo
from pysandbox.oci.errors import ContainerExists, ContainerIdError, ContainerNotFound, Error, StateError
from pysandbox.oci.state import Made, ProcessId, Store

WHAT = {"bundle": "/b", "rootfs": "/b/rootfs", "oci_version": "1.2.1"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def leftovers(store: Store) -> list[str]:
    return sorted(str(p.relative_to(store.root)) for p in Path(store.root).rglob("*") if p.name != state.PENDING)


def make(store: Store, name: str = "c", **more: Any) -> None:
    with store.create(name, **WHAT, **more) as container:
        container.commit()


# --- ids, places --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-1_b.c+d", "...", "-x", "0" * 255])
def test_ids_accepted(name: str) -> None:
    state.check_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\n", "é", "a\0", "@pending", "0" * 256, "a,b"])
def test_ids_refused(name: str, store: Store) -> None:
    for use in (state.check_id, store.open, store.load):
        with pytest.raises(ContainerIdError) as e:
            use(name)
        assert e.value.message.isprintable()
    with pytest.raises(ContainerIdError):
        store.create(name, **WHAT)
    assert not os.path.exists(store.root)


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state.default_root() == "/run/pysandbox"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state.default_root() == "/run/user/1000/pysandbox"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert state.default_root() == "/run/pysandbox"


# --- life ---------------------------------------------------------------------------------------------------


def test_life_and_statuses(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    with store.create("c", **WHAT, annotations={"a": "b"}, data={"x": [1, {"y": "z"}]}) as container:
        assert store.load("c").status == "creating"
        assert store.load("c").pid == 0
        container.set_init(sleeper.pid)
        assert store.load("c").status == "creating"
        container.commit()
        assert store.load("c").status == "created"
    with store.open("c") as container:
        container.update(phase="started")
    loaded = store.load("c")
    assert loaded.status == "running"
    assert loaded.data == {"x": [1, {"y": "z"}]}
    assert loaded.oci() == {
        "ociVersion": "1.2.1", "id": "c", "status": "running", "pid": sleeper.pid, "bundle": "/b",
        "annotations": {"a": "b"},
    }  # fmt: skip
    assert list(loaded.report()) == [
        "ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner",
    ]  # fmt: skip
    sleeper.kill()
    sleeper.wait()
    assert store.load("c").status == "stopped"
    assert store.load("c").report()["pid"] == 0
    assert "pid" not in store.load("c").oci()
    assert store.ids() == ["c"]
    with store.open("c") as container:
        container.destroy()
    assert leftovers(store) == []
    assert store.ids() == []


def test_modes_and_created(store: Store) -> None:
    make(store)
    assert os.stat(store.root).st_mode & 0o777 == 0o700
    assert os.stat(f"{store.root}/c").st_mode & 0o777 == 0o711
    assert os.stat(f"{store.root}/c/state.json").st_mode & 0o777 == 0o600
    created = store.load("c").created
    assert time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S")
    assert created[19] == "."
    assert created[-1] == "Z"
    assert len(created) == 30


def test_unknown_and_existing_ids(store: Store) -> None:
    with pytest.raises(ContainerNotFound, match="container 'c' does not exist"):
        store.load("c")
    make(store)
    with pytest.raises(ContainerExists, match="container with id exists: c"):
        store.create("c", **WHAT)
    assert store.load("c").phase == "created"
    assert os.listdir(f"{store.root}/{state.PENDING}") == []


def test_a_zombie_is_stopped_and_a_reused_pid_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessId.of(sleeper.pid)
    assert identity.alive
    assert not identity.replace(start=identity.start + 1).alive
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert undo.process_start(sleeper.pid) == (False, identity.start)
    assert not identity.alive
    sleeper.wait()
    assert undo.process_start(sleeper.pid) is None


def test_a_process_whose_first_thread_ended_is_alive() -> None:
    code = "import threading,time,ctypes; threading.Thread(target=time.sleep, args=(30,)).start();"
    code += "print(flush=True); ctypes.CDLL(None).pthread_exit(None)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ProcessId.of(process.pid).alive
    finally:
        process.kill()
        process.wait()


def test_paused_comes_from_the_freezer(store: Store, sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for name, frozen, thawed in (("freezer.state", "FROZEN", "THAWED"), ("cgroup.freeze", "1", "0")):
        cgroup = tmp_path / name.replace(".", "-")
        cgroup.mkdir()
        with store.create(name, **WHAT) as container:
            container.record(Made(kind="cgroup", path=str(tmp_path / "other")), Made(kind="cgroup", path=str(cgroup)))
            container.set_init(sleeper.pid)
            container.commit("started")
        (cgroup / name).write_text(frozen + "\n")
        assert store.load(name).status == "paused"
        (cgroup / name).write_text(thawed + "\n")
        assert store.load(name).status == "running"


# --- locks --------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child, which then exits with 0; the child's pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_verbs_exclude_each_other(store: Store) -> None:
    make(store)
    with store.open("c"):
        with pytest.raises(StateError, match="container c is busy"):
            store.open("c", patience=0.05)
        assert store.load("c").id == "c"
    store.open("c", patience=0.05).release()


def test_many_writers_lose_nothing(store: Store) -> None:
    make(store, data={"n": 0})

    def work() -> None:
        for _ in range(20):
            with store.open("c") as container:
                container.update(data={"n": container.state.data["n"] + 1})

    children = [in_child(work) for _ in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert store.load("c").data["n"] == 80


def test_one_of_many_creators_wins(store: Store) -> None:
    def work() -> None:
        try:
            make(store)
        except ContainerExists:
            os._exit(7)

    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [in_child(work) for _ in range(6)]]
    assert sorted(codes) == [0, 7, 7, 7, 7, 7]


def test_open_notices_that_the_container_was_replaced(store: Store) -> None:
    make(store)
    container = store.open("c")

    def work() -> None:
        with pytest.raises(ContainerNotFound):
            store.open("c")

    pid = in_child(work)
    time.sleep(0.1)
    container.destroy()
    make(store)
    container.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert store.load("c").phase == "created"


def test_a_forked_child_neither_keeps_the_lock_nor_takes_back(store: Store) -> None:
    read, write = os.pipe()
    with store.create("c", **WHAT) as container:
        pid = os.fork()
        if pid == 0:
            try:
                os.close(write)
                os.read(read, 1)
                container.__exit__(SystemExit, SystemExit(), None)
            finally:
                os._exit(0)
        container.commit()
    os.close(read)
    store.open("c", patience=0.0).release()
    os.close(write)
    os.waitpid(pid, 0)
    assert store.load("c").phase == "created"


# --- taking back --------------------------------------------------------------------------------------------


def test_an_error_while_creating_takes_everything_back(
    store: Store, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    directory, file = tmp_path / "d", tmp_path / "d" / "f"

    def work() -> None:
        with store.create("c", **WHAT) as container:
            container.record(Made(kind="directory", path=str(directory)), Made(kind="file", path=str(file)))
            container.record(Made(kind="directory", path=str(tmp_path / "never-made")))
            directory.mkdir()
            file.touch()
            container.set_init(sleeper.pid)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        work()
    assert not directory.exists()
    assert sleeper.wait(5) == -signal.SIGKILL
    assert leftovers(store) == []


@pytest.mark.root
def test_mounts_are_taken_back(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    code = f"""
import os, subprocess, sys
from pysandbox.oci.state import Made, Store
os.mkdir({str(directory)!r})
try:
    with Store({store.root!r}).create("c", bundle="/b", rootfs="/r", oci_version="1.0.0") as c:
        c.record(Made(kind="directory", path={str(directory)!r}), Made(kind="mount", path={str(directory)!r}))
        for _ in range(2):
            subprocess.run(["mount", "-t", "tmpfs", "none", {str(directory)!r}], check=True)
        assert os.path.ismount({str(directory)!r})
        raise RuntimeError
except RuntimeError:
    assert not os.path.exists({str(directory)!r})
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)}
    subprocess.run(["unshare", "-m", sys.executable, "-c", code], env=environment, check=True)
    assert leftovers(store) == []


@pytest.mark.root
def test_cgroups_are_taken_back_with_what_runs_in_them(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    base = next(
        (p for p in ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup") if os.access(f"{p}/cgroup.procs", os.W_OK)), ""
    )
    if not base:
        pytest.skip("no writable cgroup hierarchy is mounted at /sys/fs/cgroup")
    top = f"{base}/pysandbox-test-{os.getpid()}"
    try:
        with store.create("c", **WHAT) as container:
            container.record(Made(kind="cgroup", path=top))
            os.makedirs(f"{top}/sub")
            Path(f"{top}/sub/cgroup.procs").write_text(str(sleeper.pid))
            name = "freezer.state" if os.path.exists(f"{top}/freezer.state") else "cgroup.freeze"
            Path(f"{top}/sub/{name}").write_text("FROZEN" if name == "freezer.state" else "1")
            container.commit()
        with store.open("c") as container:
            container.destroy()
        assert not os.path.exists(top)
        assert sleeper.wait(5) == -signal.SIGKILL
    finally:
        sleeper.kill()
        undo.undo(Made(kind="cgroup", path=top))


@pytest.mark.root
def test_the_root_of_a_hierarchy_is_never_taken_back() -> None:
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup"]
    roots += [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    assert roots
    with pytest.raises(StateError, match="root of a cgroup hierarchy"):
        undo.undo(Made(kind="cgroup", path=roots[0]))


def test_what_cannot_be_taken_back_is_said_and_stays_recorded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with store.create("c", **WHAT) as container:
        container.record(Made(kind="file", path=str(tmp_path / "f")))
        container.commit()
    with store.open("c") as container, pytest.raises(StateError, match=r"cannot remove file .*: is a directory"):
        container.destroy()
    (tmp_path / "f").rmdir()
    with store.open("c") as container:
        container.destroy()
    assert leftovers(store) == []


# --- killed at any moment -----------------------------------------------------------------------------------


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A child creates and destroys a container and is killed at the n-th line of state.py and undo.py, for every n.

    After that the next command cleans up: nothing is left, or a complete container is, and the id can be used.
    """
    outcomes = {"gone": 0, "complete": 0}
    n = 0
    finished = False
    while not finished:
        n += 1
        store = Store(str(tmp_path / str(n)))
        thing = tmp_path / f"thing{n}"
        pid = os.fork()
        if pid == 0:
            left = n

            def tracer(frame: Any, event: str, argument: Any) -> Any:
                nonlocal left
                if frame.f_code.co_filename not in (state.__file__, undo.__file__):
                    return None
                if event == "line":
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return tracer

            try:
                sys.settrace(tracer)
                with store.create("c", **WHAT) as container:
                    container.record(Made(kind="file", path=str(thing)))
                    thing.touch()
                    container.commit()
                with store.open("c") as container:
                    container.destroy()
                sys.settrace(None)
            finally:
                os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        store.collect()
        if store.ids():
            assert store.load("c").phase == "created", n
            assert thing.exists()
            outcomes["complete"] += 1
            with store.open("c") as container:
                container.destroy()
        else:
            outcomes["gone"] += 1
        assert not thing.exists(), n
        assert leftovers(store) == [], n
        make(store)
    assert outcomes["gone"] > 50
    assert outcomes["complete"] > 5


def test_a_dead_creators_child_that_holds_the_lock_is_killed(store: Store) -> None:
    read, write = os.pipe()

    def work() -> None:
        container = store.create("c", **WHAT)
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        container.set_init(child)
        os.write(write, str(child).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(work), 0)
    child = int(os.read(read, 100))
    identity = ProcessId.of(child)
    assert identity.alive
    assert store.collect() == ["c"]
    assert not identity.alive
    assert leftovers(store) == []


def test_an_owner_that_ends_while_it_is_looked_at(store: Store, sleeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is read while it creates, and when its pid is looked up it is done and gone."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    owner = ProcessId.of(process.pid)
    process.communicate()
    with store.create("c", **WHAT) as container:  # the lock is held, as by a process that inherited it
        container.set_init(sleeper.pid)
        stale = [container.state.replace(owner=owner)]
        container.commit("created")
        Path(store.root, "@pending", "c").touch()
        load = Store.load
        monkeypatch.setattr(Store, "load", lambda self, name: stale.pop() if stale else load(self, name))
        wait_for(lambda: not owner.alive)
        assert store.collect() == []
        assert (stale, sleeper.poll()) == ([], None)


def test_collect_leaves_the_living_alone(store: Store) -> None:
    with store.create("c", **WHAT) as container:
        assert Store(store.root).collect() == []
        assert store.load("c").status == "creating"
        container.commit()
    assert store.collect() == []


def test_collect_leaves_what_is_not_its_own(store: Store, tmp_path: Path) -> None:
    make(store)
    foreign = Path(store.root) / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").touch()
    (Path(store.root) / "link").symlink_to(tmp_path)
    assert store.collect() == []
    assert (foreign / "a.jpg").exists()
    assert store.ids() == ["c"]
    with pytest.raises(ContainerExists):
        store.create("photos", **WHAT)
    with pytest.raises(StateError):
        store.open("link")


# --- damage, full disks -------------------------------------------------------------------------------------


def good() -> dict[str, Any]:
    return {
        "version": 1, "id": "c", "phase": "created", "ociVersion": "1.0.0", "bundle": "/b", "rootfs": "/r",
        "created": "x", "annotations": {}, "owner": None, "init": [2, 3], "made": [["file", "/x"]], "data": {},
    }  # fmt: skip


def test_encode_and_decode_are_inverse(store: Store) -> None:
    loaded = state.decode(json.dumps(good()).encode(), "c")
    assert state.decode(state.encode(loaded), "c") == loaded


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"id": "d"}, {"phase": "odd"}, {"bundle": 1}, {"annotations": []}, {"annotations": {"a": 1}},
        {"init": [1, 1]}, {"init": [0, 0]}, {"init": [-1, 0]}, {"init": [2]}, {"init": [True, 0]}, {"init": "2"},
        {"init": [2**63, 0]}, {"made": [["rm", "/"]]}, {"made": [["file", "x"]]}, {"made": [["file", "/a/../b"]]},
        {"made": [["process", 1, 0]]}, {"made": [[]]}, {"made": {}}, {"made": [["file"]]}, {"data": []}, {"made": None},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_states(change: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="state of container c is damaged"):
        state.decode(json.dumps({**good(), **change}).encode(), "c")


def test_every_truncation_is_an_error() -> None:
    data = json.dumps(good()).encode()
    for length in range(len(data)):
        with pytest.raises(StateError, match="damaged"):
            state.decode(data[:length], "c")


def test_state_files_that_are_no_files(store: Store, tmp_path: Path) -> None:
    make(store)
    file = Path(store.root) / "c" / "state.json"
    file.chmod(0o666)
    with pytest.raises(StateError, match="not trusted"):
        store.load("c")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StateError, match="damaged"):
        store.load("c")
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(StateError, match="too many levels of symbolic links"):
        store.open("c")


def fail_write(code: int) -> Callable[..., int]:
    def write(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    return write


def test_full_disk_while_creating(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.os, "write", fail_write(errno.ENOSPC))
    with pytest.raises(StateError, match="write state of container c: no space left on device") as e:
        store.create("c", **WHAT)
    assert e.value.errno == errno.ENOSPC
    assert leftovers(store) == []


def test_full_disk_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    before = store.load("c")
    monkeypatch.setattr(state.os, "write", fail_write(errno.ENOSPC))
    with store.open("c") as container:
        with pytest.raises(StateError, match="no space left on device"):
            container.record(Made(kind="file", path="/x"))
        assert container.state == before
        assert os.listdir(container.path) == ["state.json"]
        container.destroy()
    assert leftovers(store) == []


@pytest.mark.root
def test_a_really_full_disk(tmp_path: Path) -> None:
    """A tmpfs of one page with no room left: one clear line, and nothing is left."""
    code = """
import os, subprocess, sys
from pysandbox.oci.errors import StateError
from pysandbox.oci.state import Store
root = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", root], check=True)
with open(root + "/fill", "wb", buffering=0) as f:
    f.write(b"x" * 4096)
try:
    Store(root + "/state").create("c", bundle="/b", rootfs="/r", oci_version="1.0.0")
except StateError as e:
    print(e.message)
print(sorted(os.listdir(root + "/state")), os.listdir(root + "/state/@pending"))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)}
    out = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code, str(tmp_path)],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert out == ["write state of container c: no space left on device", "['@pending'] []"]


def test_unusable_root(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"cannot make state directory .*: (file exists|not a directory)"):
        Store(str(tmp_path / "file")).create("c", **WHAT)
    with pytest.raises(Error):
        Store(str(tmp_path / "file" / "x")).create("c", **WHAT)
    assert Store(str(tmp_path / "none")).collect() == []
    assert Store(str(tmp_path / "none")).ids() == []


def test_dump_is_json() -> None:
    value = {"a": [1, "é\n\0", None, True, 2**70], "": {}}
    assert json.loads(jsontext.dump(value)) == value
    with pytest.raises(TypeError):
        jsontext.dump({"a": object()})
