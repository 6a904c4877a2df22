"""`pysandbox install`: what is written into engines' configurations, what is refused, and that undoing restores it exactly.

Everything happens below a prefix; nothing of the host's configuration is read or written.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Install = Callable[..., subprocess.CompletedProcess[str]]
DOCKER = "etc/docker/daemon.json"
PODMAN = "etc/containers/containers.conf.d/50-pysandbox.conf"
CONTAINERD = "etc/containerd/config.toml"
CRIO = "etc/crio/crio.conf.d/50-pysandbox.conf"
FILES = {"docker": DOCKER, "podman": PODMAN, "containerd": CONTAINERD, "crio": CRIO}
CRI2 = 'plugins."io.containerd.grpc.v1.cri".containerd'


@pytest.fixture
def install(tmp_path: Path, pysandbox_command: list[str]) -> Install:
    """`pysandbox install --prefix TMP/host ARGS`."""
    (tmp_path / "host").mkdir()

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        command = [*pysandbox_command, "install", "--prefix", str(tmp_path / "host"), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    return call


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return tmp_path / "host"


def write(host: Path, name: str, text: str) -> Path:
    path = host / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def tree(host: Path) -> dict[str, str]:
    """Everything below: path -> kind, mode and content."""
    found = {}
    for path in sorted(host.rglob("*")):
        mode = oct(stat.S_IMODE(path.lstat().st_mode))
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        found[str(path.relative_to(host))] = f"{mode} {content}"
    return found


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    """Status 1 and one line."""
    assert done.returncode == 1, done.stdout
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_docker_from_nothing(install: Install, host: Path, pysandbox_command: list[str]) -> None:
    out = good(install("docker"))
    assert json.loads((host / DOCKER).read_text()) == {"runtimes": {"pysandbox": {"path": pysandbox_command[0]}}}
    assert stat.S_IMODE((host / DOCKER).stat().st_mode) == 0o644
    assert "systemctl reload docker" in out
    assert "docker run --runtime=pysandbox" in out
    good(install("docker", "--undo"))
    assert tree(host) == {}


def test_docker_keeps_everything_else(install: Install, host: Path, pysandbox_command: list[str]) -> None:
    text = '{\n  "zeta": [1, 2.5, null, "ä"],\n  "runtimes": {"kata": {"path": "/kata", "runtimeArgs": ["--x"]}},\n'
    text += '  "log-opts": {}\n}'
    path = write(host, DOCKER, text)
    path.chmod(0o640)
    before = tree(host)
    good(install("docker", "--default"))
    config = json.loads(path.read_text())
    expected = json.loads(text)
    expected["runtimes"]["pysandbox"] = {"path": pysandbox_command[0]}
    assert config == {**expected, "default-runtime": "pysandbox"}
    assert list(config) == ["zeta", "runtimes", "log-opts", "default-runtime"]
    assert path.read_text().startswith('{\n  "zeta"')  # indented as it was
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    good(install("docker", "--undo"))
    assert tree(host) == before


def test_docker_undo_after_others_changed_the_file(install: Install, host: Path) -> None:
    path = write(host, DOCKER, '{"default-runtime": "kata", "runtimes": {"kata": {"path": "/kata"}}}')
    good(install("docker", "--default"))
    config = json.loads(path.read_text())
    config["debug"] = True
    path.write_text(json.dumps(config))
    good(install("docker", "--undo"))
    kept = {"default-runtime": "kata", "runtimes": {"kata": {"path": "/kata"}}, "debug": True}
    assert json.loads(path.read_text()) == kept


def test_docker_undo_leaves_what_others_decided_since(install: Install, host: Path) -> None:
    good(install("docker", "--default"))
    path = host / DOCKER
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "default-runtime": "runc"}))
    good(install("docker", "--undo"))
    assert json.loads(path.read_text()) == {"default-runtime": "runc"}


def test_installing_again_and_with_more(install: Install, host: Path) -> None:
    write(host, DOCKER, '{"debug": true}\n')
    before = tree(host)
    good(install("docker"))
    once = tree(host)
    assert "nothing to change" in good(install("docker"))
    assert tree(host) == once
    good(install("docker", "--default"))
    assert json.loads((host / DOCKER).read_text())["default-runtime"] == "pysandbox"
    good(install("docker", "--undo"))
    assert tree(host) == before
    refused(install("docker", "--undo"), "nothing to undo")


def test_a_changed_file_is_what_undoing_brings_back(install: Install, host: Path) -> None:
    """Installed, changed by somebody, installed with more: undoing must not lose the change between."""
    path = write(host, DOCKER, '{"debug": true}\n')
    good(install("docker"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "ipv6": True}))
    good(install("docker", "--default"))
    good(install("docker", "--undo"))
    assert json.loads(path.read_text()) == {"debug": True, "ipv6": True}


def test_another_command_replaces_ours_only(install: Install, host: Path) -> None:
    good(install("docker", "--command", "/bin/true"))
    good(install("docker", "--command", "/bin/false"))
    assert json.loads((host / DOCKER).read_text())["runtimes"]["pysandbox"] == {"path": "/bin/false"}
    good(install("docker", "--undo"))
    write(host, DOCKER, '{"runtimes": {"pysandbox": {"path": "/theirs"}}}')
    before = tree(host)
    refused(install("docker"), "a runtime 'pysandbox' is there already, for /theirs")
    assert tree(host) == before
    good(install("docker", "--name", "sand-2"))
    assert set(json.loads((host / DOCKER).read_text())["runtimes"]) == {"pysandbox", "sand-2"}


BROKEN = [
    ("docker", DOCKER, '{"runtimes": }', "line 1"),
    ("docker", DOCKER, "[]", "expected an object, found an array"),
    ("docker", DOCKER, '{"runtimes": ["x"]}', "/runtimes: expected an object, found an array"),
    ("docker", DOCKER, '{"a": 1} trailing', "daemon.json"),
    ("podman", "etc/containers/containers.conf", "[engine\n", "not TOML"),
    ("podman", "etc/containers/containers.conf", "engine = 1\n", "engine: expected a table"),
    ("podman", "etc/containers/containers.conf.d/10-x.conf", "a = = b\n", "10-x.conf: not TOML"),
    ("podman", PODMAN, "[engine]\n", "was not written by pysandbox"),
    ("containerd", CONTAINERD, "version = 2\n[plugins\n", "not TOML"),
    ("containerd", CONTAINERD, "version = 9\n", "version 9 is not known"),
    ("containerd", CONTAINERD, "version = 2\nplugins = 1\n", "plugins: expected a table"),
    ("containerd", CONTAINERD, f'version = 2\n[{CRI2}]\nruntimes = {{}}\n', "add by hand"),
    ("crio", "etc/crio/crio.conf", "[crio\n", "not TOML"),
    ("crio", CRIO, "x = 1\n", "was not written by pysandbox"),
]


@pytest.mark.parametrize(("engine", "file", "text", "words"), BROKEN)
def test_broken_configuration_is_refused_and_left_alone(
    install: Install, host: Path, engine: str, file: str, text: str, words: str
) -> None:
    write(host, file, text)
    before = tree(host)
    for options in ((), ("--default",), ("--dry-run",)):
        refused(install(engine, *options), words)
    assert tree(host) == before


@pytest.mark.parametrize("engine", FILES)
def test_dry_run_shows_and_writes_nothing(install: Install, host: Path, engine: str) -> None:
    out = good(install(engine, "--dry-run", "--default"))
    assert tree(host) == {}
    assert "nothing was written" in out
    added = "\n".join(line[1:] for line in out.splitlines() if line.startswith("+") and not line.startswith("+++"))
    good(install(engine, "--default"))
    assert (host / FILES[engine]).read_text().strip() == added.strip()
    installed = tree(host)
    assert "nothing was written" in good(install(engine, "--undo", "--dry-run"))
    assert tree(host) == installed


@pytest.mark.parametrize("engine", FILES)
def test_undo_restores_exactly(install: Install, host: Path, engine: str) -> None:
    """Files, directories, modes: nothing of the installation stays, and nothing of others goes."""
    write(host, "etc/other/file", "x")
    write(host, "var/lib/something", "y")
    before = tree(host)
    good(install(engine, "--default"))
    assert tree(host) != before
    good(install(engine, "--undo"))
    assert tree(host) == before


def test_podman(install: Install, host: Path, pysandbox_command: list[str]) -> None:
    write(host, "etc/containers/containers.conf", '[engine]\nruntime = "crun"\nruntime_supports_json = ["crun", "mine"]\n')
    good(install("podman"))
    engine = tomllib.loads((host / PODMAN).read_text())["engine"]
    assert engine == {
        "runtime_supports_json": ["crun", "mine", "pysandbox"],
        "runtimes": {"pysandbox": [pysandbox_command[0]]},
    }
    good(install("podman", "--default"))
    assert tomllib.loads((host / PODMAN).read_text())["engine"]["runtime"] == "pysandbox"
    (host / PODMAN).write_text((host / PODMAN).read_text() + "\n# mine\n")
    refused(install("podman", "--undo"), "changed since it was written; remove it by hand")


def test_crio(install: Install, host: Path, pysandbox_command: list[str]) -> None:
    write(host, "etc/crio/crio.conf", '[crio.runtime]\ndefault_runtime = "runc"\n')
    good(install("crio", "--default", "--name", "sand.box"))
    runtime = tomllib.loads((host / CRIO).read_text())["crio"]["runtime"]
    entry = {"runtime_path": pysandbox_command[0], "runtime_type": "oci", "runtime_root": "/run/pysandbox"}
    assert runtime == {"default_runtime": "sand.box", "runtimes": {"sand.box": entry}}


def containerd_config(host: Path, table: str) -> dict[str, Any]:
    config: dict[str, Any] = tomllib.loads((host / CONTAINERD).read_text())
    plugin: dict[str, Any] = config["plugins"][table]["containerd"]
    return plugin


VERSIONS = [
    ("", "io.containerd.grpc.v1.cri"),
    ("# no version\nroot = '/x'\n", "cri"),
    ("version = 2\n", "io.containerd.grpc.v1.cri"),
    ("version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n", "io.containerd.cri.v1.runtime"),
]


@pytest.mark.parametrize(("text", "table"), VERSIONS)
def test_containerd_versions(install: Install, host: Path, pysandbox_command: list[str], text: str, table: str) -> None:
    if text:
        write(host, CONTAINERD, text)
    before = tree(host)
    good(install("containerd", "--default"))
    plugin = containerd_config(host, table)
    assert plugin["default_runtime_name"] == "pysandbox"
    handler = {"runtime_type": "io.containerd.runc.v2", "options": {"BinaryName": pysandbox_command[0]}}
    # Without runc, which is built in only as long as the file has no runtimes, containerd's plugin would not start.
    assert plugin["runtimes"] == {"runc": {"runtime_type": "io.containerd.runc.v2"}, "pysandbox": handler}
    assert (host / CONTAINERD).read_text().startswith(text)
    good(install("containerd", "--undo"))
    assert tree(host) == before


KUBERNETES = f"""# kept comment
version = 2
disabled_plugins = ["cri"]

[plugins]
  [ plugins.'io.containerd.grpc.v1.cri'.containerd ] # spelled in another way
    default_runtime_name = "runc"  # kept? no: replaced
    snapshotter = "overlayfs"

    [{CRI2}.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{CRI2}.runtimes.runc.options]
        SystemdCgroup = true

[debug]
  level = "info" # no newline at the end"""


def test_containerd_of_a_cluster(install: Install, host: Path) -> None:
    """Comments and order stay, the cgroup driver is that of runc's handler, the default is replaced in its place."""
    path = write(host, CONTAINERD, KUBERNETES)
    before = tree(host)
    out = good(install("containerd", "--default"))
    assert "the CRI plugin is switched off" in out
    plugin = containerd_config(host, "io.containerd.grpc.v1.cri")
    assert plugin["default_runtime_name"] == "pysandbox"
    assert plugin["runtimes"]["pysandbox"]["options"]["SystemdCgroup"] is True
    assert plugin["snapshotter"] == "overlayfs"
    assert set(plugin["runtimes"]) == {"runc", "pysandbox"}
    text = path.read_text()
    assert text.startswith(KUBERNETES.split("    default_runtime_name")[0])
    assert 'level = "info" # no newline at the end\n' in text
    path.write_text(text.replace("overlayfs", "zfs"))  # others work on it
    good(install("containerd", "--undo"))
    assert path.read_text() == KUBERNETES.replace("overlayfs", "zfs") + "\n"
    path.write_text(KUBERNETES)
    assert tree(host) == before


def test_containerd_undo_refuses_what_it_does_not_find(install: Install, host: Path) -> None:
    path = write(host, CONTAINERD, "version = 2\n")
    good(install("containerd"))
    path.write_text(path.read_text().replace("io.containerd.runc.v2", "io.containerd.other.v2"))
    before = tree(host)
    refused(install("containerd", "--undo"), "changed since; remove by hand")
    assert tree(host) == before


def test_links(install: Install, host: Path, tmp_path: Path) -> None:
    """A link to the file stays a link; one that leads out of the prefix is refused."""
    target = write(host, "srv/daemon.json", "{}")
    (host / "etc/docker").mkdir(parents=True)
    (host / DOCKER).symlink_to("../../srv/daemon.json")
    good(install("docker"))
    assert (host / DOCKER).is_symlink()
    assert "pysandbox" in target.read_text()
    good(install("docker", "--undo"))
    assert target.read_text() == "{}"
    (tmp_path / "outside.json").write_text("{}")
    (host / DOCKER).unlink()
    (host / DOCKER).symlink_to(tmp_path / "outside.json")
    refused(install("docker"), "leads out of")
    assert (tmp_path / "outside.json").read_text() == "{}"


def test_the_record_comes_first_and_a_lost_file_is_no_problem(install: Install, host: Path) -> None:
    """As after a crash between record and file, and as if an administrator had removed the file."""
    write(host, DOCKER, "{}\n")
    good(install("docker"))
    (host / DOCKER).write_text("{}\n")
    good(install("docker", "--undo"))
    assert (host / DOCKER).read_text() == "{}\n"
    good(install("docker"))
    (host / DOCKER).unlink()
    good(install("docker", "--undo"))
    assert not (host / DOCKER).exists()
    assert not (host / "var").exists()
    good(install("docker"))
    record = host / "var/lib/pysandbox/install/docker.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    record.write_text("{")
    refused(install("docker", "--undo"), "docker.json: damaged")


BAD_USE = [
    ([], "argument"),
    (["rkt"], "no such engine: 'rkt'"),
    (["docker", "--name", "a b"], "--name"),
    (["docker", "--name", "runc"], "keeps for itself"),
    (["docker", "--command", "/etc/passwd"], "is not a program"),
    (["docker", "--command", "/bin"], "is not a program"),
    (["docker", "--undo", "--default"], "do not go together"),
    (["docker", "--undo"], "nothing to undo"),
    (["docker", "--nope"], "flag provided but not defined"),
]


@pytest.mark.parametrize(("args", "words"), BAD_USE)
def test_bad_use(install: Install, host: Path, args: list[str], words: str) -> None:
    refused(install(*args), words)
    assert tree(host) == {}


def test_options_before_the_engine(install: Install, host: Path) -> None:
    good(install("--default", "docker", "--name", "x"))
    assert json.loads((host / DOCKER).read_text())["default-runtime"] == "x"
    refused(install("docker", "podman"), "one engine at a time")


def test_a_place_that_cannot_be_written(install: Install, host: Path) -> None:
    """The directory cannot be made: one line, and no record of what was not done is left to mislead."""
    write(host, "etc/docker", "a file")
    refused(install("docker"), "daemon.json: ")
    assert not (host / "var").exists()
    assert not (host / DOCKER).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file of somebody else's")
def test_a_command_that_others_can_exchange_is_noted(install: Install, tmp_path: Path) -> None:
    command = tmp_path / "pysandbox"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    os.chown(command, 1000, 1000)
    assert "can be changed by others than root" in good(install("docker", "--command", str(command)))


def test_doctor_knows_the_engines(pysandbox_command: list[str]) -> None:
    done = subprocess.run([*pysandbox_command, "doctor", "--json"], capture_output=True, text=True, check=False)
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert [name for name in names if name.startswith("engine")]
