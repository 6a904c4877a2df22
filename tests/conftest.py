"""What a test may ask of the machine, and what happens when the machine cannot give it.

`kvm`: without /dev/kvm these tests run in an emulated machine (hack/svm), all in one boot, and their reports appear here as
if they had run here; `--svm` does so even where /dev/kvm exists (the portability test). `root`: skipped without
root. Every skip says why in the summary.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from verb_lab import Runtime

TOP = Path(__file__).resolve().parent.parent
INSIDE = "PSB_SVM"  # set by the emulated machine
REPORTS = "PSB_TEST_REPORTS"  # set by us, for the pytest inside: file for serialised reports
KVM_GET_API_VERSION = 0xAE00  # linux/kvm.h
EMULATED_TIMEOUT = {"test": 1000.0, "portability": 7200.0}  # seconds for all tests marked kvm, machine included

forwarded = pytest.StashKey[list[pytest.Item]]()
received = pytest.StashKey[dict[str, list[pytest.TestReport]]]()


def kvm_problem() -> str | None:
    """Why KVM cannot be used here, or None."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {os.strerror(error.errno or 0)}"
    try:
        version = fcntl.ioctl(fd, KVM_GET_API_VERSION)
    except OSError as error:
        return f"/dev/kvm: {os.strerror(error.errno or 0)}"
    finally:
        os.close(fd)
    return None if version == 12 else f"/dev/kvm: API version {version}"


def emulation_problem() -> str | None:
    """Why the emulated machine cannot be used here, or None."""
    if os.environ.get(INSIDE):
        return "already in the emulated machine"
    if os.geteuid() != 0:
        return "the emulated machine needs root"
    if shutil.which("qemu-system-x86_64") is None:
        return "no QEMU for the emulated machine (hack/system-packages svm)"
    return None


def load_machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("svm_machine", TOP / "hack/svm/machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--svm", action="store_true", help="run the tests marked kvm in the emulated machine in any case")


def pytest_report_header(config: pytest.Config) -> str:
    problem = "not asked (--svm)" if config.getoption("--svm") else kvm_problem()
    where = "in this machine" if problem is None else f"in an emulated machine, {problem}"
    return f"kvm tests: {where}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[forwarded] = []
    kvm = "--svm was given" if config.getoption("--svm") else kvm_problem()
    emulation = emulation_problem()
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        elif item.get_closest_marker("kvm") and kvm is not None:
            if emulation is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs KVM ({kvm}), and {emulation}"))
            elif item.get_closest_marker("slow") and not config.getoption("--svm"):
                item.add_marker(pytest.mark.skip(reason=f"too slow for the emulated machine ({kvm}); `make integration` runs it"))
            else:
                config.stash[forwarded].append(item)


# --- Outside: run the forwarded tests in one go, then report each in its turn ----------------------------------------


def run_forwarded(config: pytest.Config) -> dict[str, list[pytest.TestReport]]:
    """Runs all forwarded tests in the emulated machine; their reports by node id."""
    machine = load_machine()
    reports: dict[str, list[pytest.TestReport]] = {}
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    with tempfile.TemporaryDirectory(prefix="svm-", dir=TOP / "build") as share:
        output = Path(share) / "reports"
        command = ["env", f"{REPORTS}={output}", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--rootdir={config.rootpath}", *(item.nodeid for item in config.stash[forwarded])]
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"[{len(config.stash[forwarded])} tests in the emulated machine: build/svm-tests.log]")
        problem = ""
        timeout = EMULATED_TIMEOUT["portability" if config.getoption("--svm") else "test"]
        with open(TOP / "build" / "svm-tests.log", "wb") as log:
            try:
                machine.run(command, timeout=timeout, share=Path(share), output=log)
            except machine.Failure as error:
                problem = str(error)
        for line in output.read_text().splitlines() if output.exists() else []:
            report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
            if report.skipped and isinstance(report.longrepr, list):  # JSON knows no tuples; (path, line, reason)
                report.longrepr = tuple(report.longrepr)
            reports.setdefault(report.nodeid, []).append(report)
    for item in config.stash[forwarded]:
        if not any(report.when == "teardown" for report in reports.get(item.nodeid, [])):
            text = f"no complete report from the emulated machine\n{problem}"
            failure = pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
            reports.setdefault(item.nodeid, []).append(failure)
    return reports


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if item not in item.config.stash[forwarded]:
        return None
    if received not in item.config.stash:
        item.config.stash[received] = run_forwarded(item.config)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.config.stash[received][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


# --- Inside: reports leave through a file of the shared directory ----------------------------------------------------


class ReportWriter:
    def __init__(self, config: pytest.Config, path: str) -> None:
        self.config = config
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with open(self.path, "a") as file:
            file.write(json.dumps(data) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get(REPORTS):
        config.pluginmanager.register(ReportWriter(config, path), "svm-report-writer")


# --- Fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def time_factor() -> float:
    """By how much to stretch time limits: the emulated machine is slow."""
    return 20.0 if os.environ.get(INSIDE) else 1.0


@pytest.fixture(scope="session")
def pysandbox_command() -> list[str]:
    """The pysandbox command under test: the one installed beside this interpreter (`make build`)."""
    command = Path(sys.executable).parent / "pysandbox"
    if not command.exists():
        pytest.fail(f"{command} is missing: run the tests with `make test`")
    return [str(command)]


def rootfs(name: str) -> Path:
    path = TOP / "build" / "rootfs" / name
    if not (path.parent / f"{name}.version").exists():
        pytest.skip(f"no root file system {name}: `make rootfs` (needs root)")
    return path


@pytest.fixture(scope="session")
def busybox_rootfs() -> Path:
    """The small root file system; shared, not to be written to."""
    return rootfs("busybox")


@pytest.fixture(scope="session")
def debian_rootfs() -> Path:
    """Debian with python3, node, perl, git, gcc; shared, not to be written to."""
    return rootfs("debian")


@pytest.fixture
def state_root(tmp_path: Path) -> Path:
    """A private value for pysandbox's --root."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def pair(tmp_path: Path, busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[list[Runtime]]:
    """[pysandbox, runc], each with a bundle and a state root of its own; suites add to it under the same name."""
    from verb_lab import runtime_pair

    with runtime_pair(tmp_path, busybox_rootfs, pysandbox_command) as runtimes:
        yield runtimes


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stand-in for the monitor (tests/launch/standin.c): programs run natively."""
    out = tmp_path_factory.mktemp("standin") / "standin"
    source = TOP / "tests/launch/standin.c"
    subprocess.run(["gcc", "-O1", "-static", "-Wall", "-Wextra", "-Werror", "-o", out, source], check=True)
    return str(out)
