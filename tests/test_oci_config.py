"""config.json: both validators, decoding, meaning, and every way in which the file itself can be wrong."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pysandbox.oci import _config_validator as compiled
from pysandbox.oci import bundle, decode, jsontext, validate
from pysandbox.oci.errors import BundleError, ConfigError, Error
from pysandbox.oci.spec import Root, User

CONFIGS = sorted((Path(__file__).parent / "data" / "configs").glob("*.json"))
assert len(CONFIGS) >= 15


def load(path: Path) -> dict[str, Any]:
    return jsontext.parse(path.read_bytes(), path.name)


@pytest.fixture
def docker() -> dict[str, Any]:
    return load(Path(__file__).parent / "data" / "configs" / "docker-run.json")


def write_bundle(directory: Path, config: Any) -> Path:
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    (directory / "config.json").write_bytes(data)
    return directory


def small(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/"},
        "root": {"path": "rootfs"},
    }
    config.update(changes)
    return config


# --- captured configs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_captured_configs_are_accepted_and_kept(path: Path) -> None:
    raw = load(path)
    spec = bundle.parse_config(raw)
    assert list(spec.process.args) == raw["process"]["args"]
    assert spec.root.path == raw["root"]["path"]
    assert [m.destination for m in spec.mounts] == [m["destination"] for m in raw["mounts"]]
    assert [list(m.options) for m in spec.mounts] == [m.get("options", []) for m in raw["mounts"]]
    assert [n.type for n in spec.linux.namespaces] == [n["type"] for n in raw["linux"]["namespaces"]]
    seccomp = raw["linux"].get("seccomp")
    assert (spec.linux.seccomp is None) == (seccomp is None)
    if seccomp:
        assert spec.linux.seccomp is not None
        assert [list(r.names) for r in spec.linux.seccomp.syscalls] == [r["names"] for r in seccomp["syscalls"]]
    assert len(spec.process.env) == len(raw["process"].get("env", []))


def leaves(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [where] if where else []
    if isinstance(value, dict):
        for key, item in value.items():
            out += leaves(item, (*where, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            out += leaves(item, (*where, i))
    return out


REPLACEMENTS: tuple[Any, ...] = (
    "", "x", "SCMP_ACT_NONE", -1, 0, 1, 3.5, 1.0, 2**16, 2**32, 2**63, 2**64, -(2**63) - 1,
    True, False, None, [], {}, [1], [""], ["a"], {"a": "b"}, {"a": 1}, [[]], [{}],
)  # fmt: skip


def reference(definition: str | None = None) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(validate.schema(definition))


def accepts(raw: Any) -> bool:
    try:
        compiled.config(raw)
    except compiled.Rejected:
        return False
    return True


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_two_validators_agree_on_mutated_configs(path: Path) -> None:
    rng = random.Random(path.stem)
    whole = load(path)
    # jsonschema is slow on long lists and the elements are alike.
    if "seccomp" in whole["linux"]:
        whole["linux"]["seccomp"]["syscalls"] = whole["linux"]["seccomp"]["syscalls"][-3:]
    validator = reference()
    answers = {True: 0, False: 0}
    places = leaves(whole)
    for _ in range(250):
        raw = copy.deepcopy(whole)
        place = rng.choice(places)
        parent = raw
        for token in place[:-1]:
            parent = parent[token]
        if rng.random() < 0.25:
            del parent[place[-1]]
        else:
            parent[place[-1]] = copy.deepcopy(rng.choice(REPLACEMENTS))
        expected = validator.is_valid(raw)
        assert accepts(raw) == expected, place
        answers[expected] += 1
        if expected:
            # What has the right shape is decoded, and then acceptable or not, but never a surprise.
            with contextlib.suppress(ConfigError):
                bundle.parse_config(raw)
        if not expected:
            error = validate.explain(raw, None, "config.json")
            assert error.message.startswith("config.json")
            assert "\n" not in error.message
            assert error.message != "config.json: does not match the schema"
    assert min(answers.values()) > 20


@pytest.mark.parametrize("definition", ["Process", "Resources", "Seccomp", "Linux", "Hooks", "Mount"])
def test_the_two_validators_agree_on_every_property(definition: str) -> None:
    """Each property of the schema by itself, with every replacement: ranges and types, whatever is captured."""
    schema = validate.schema(definition)
    fast = getattr(compiled, definition.lower())
    validator = reference(definition)
    properties = schema["definitions"][definition]["properties"]
    base = {"Process": {"args": ["a"], "cwd": "/"}, "Seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
    rejected = 0
    for name in properties:
        for value in REPLACEMENTS:
            raw = {**base.get(definition, {}), **({"destination": "/x"} if definition == "Mount" else {}), name: value}
            try:
                fast(raw)
                answer = True
            except compiled.Rejected:
                answer = False
                rejected += 1
            assert answer == validator.is_valid(raw), (name, value)
    assert rejected > len(properties)


def test_compiled_validator_is_current() -> None:
    generate = importlib.import_module("pysandbox.oci.schema.generate")
    assert generate.main(["--check"]) == 0, "run python -m pysandbox.oci.schema.generate"


def test_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(validate.schema())


# --- shape: what the messages say ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": {"args": [], "cwd": "/"}}, "config.json: /process/args: [] should be non-empty"),
        ({"process": {"args": ["a"]}}, "config.json: /process: 'cwd' is missing"),
        ({"root": None}, "config.json: 'root' is missing"),
        ({"root": {"path": 1}}, "config.json: /root/path: expected a string, found a number 1"),
        ({"mounts": {}}, "config.json: /mounts: expected an array, found an object"),
        (
            {"annotations": {"a/b~c": 1}},
            "config.json: /annotations/a~1b~0c: expected a string, found a number 1",
        ),
        (
            {"process": {"args": ["a"], "cwd": "/", "user": {"uid": 2**32}}},
            "config.json: /process/user/uid: expected at most 4294967295, found 4294967296",
        ),
        (
            {"process": {"args": ["a"], "cwd": "/", "terminal": "yes"}},
            "config.json: /process/terminal: expected a boolean, found a string 'yes'",
        ),
        (
            {"linux": {"rootfsPropagation": "up"}},
            "config.json: /linux/rootfsPropagation: expected one of 'private', 'rprivate', 'shared', 'rshared', "
            "'slave', 'rslave', 'unbindable', 'runbindable'; found 'up'",
        ),
    ],
)
def test_shape_messages(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        bundle.load_bundle(str(write_bundle(tmp_path, small(**change))))
    assert e.value.message == message
    assert e.value.status == 1


def test_unknown_properties_are_allowed(docker: dict[str, Any]) -> None:
    docker["vendor"] = {"any": [1.5, "thing"]}
    docker["process"]["vendor"] = 1
    docker["linux"]["resources"]["vendor"] = []
    assert bundle.parse_config(docker).process.args


def test_integral_floats_become_integers_and_nulls_vanish(tmp_path: Path) -> None:
    text = b"""{"ociVersion": "1.0.2", "root": {"path": "r", "readonly": null}, "mounts": null, "hooks": null,
        "process": {"args": ["a"], "cwd": "/", "user": {"uid": 1e3, "gid": 5.0}, "capabilities": {"bounding": null}}}"""
    spec = bundle.load_bundle(str(write_bundle(tmp_path, text))).spec
    assert spec.process.user == User(uid=1000, gid=5)
    assert type(spec.process.user.gid) is int
    assert spec.root == Root(path="r")
    assert spec.mounts == ()
    assert spec.process.capabilities is not None
    assert spec.process.capabilities.bounding == ()


# --- meaning ------------------------------------------------------------------------------------------------


def with_process(**changes: Any) -> dict[str, Any]:
    return small(process={"args": ["/bin/true"], "cwd": "/", **changes})


def with_namespaces(*kinds: str, **linux: Any) -> dict[str, Any]:
    return small(linux={"namespaces": [{"type": k} for k in kinds], **linux})


NOFILE = {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}
ONE = {"containerID": 0, "hostID": 1000, "size": 10}


@pytest.mark.parametrize(
    ("config", "pointer", "words"),
    [
        (small(ociVersion="2.0.0"), "/ociVersion", "version 2.0.0 is not supported"),
        (small(ociVersion="1.0"), "/ociVersion", "not a semantic version"),
        (small(ociVersion="1.0.x"), "/ociVersion", "not a semantic version"),
        (small(ociVersion="01.0.0"), "/ociVersion", "not a semantic version"),
        (small(ociVersion="1.0.0-"), "/ociVersion", "not a semantic version"),
        (small(ociVersion="1.0.0+"), "/ociVersion", "not a semantic version"),
        (with_process(cwd="tmp"), "/process/cwd", "Cwd must be an absolute path"),
        (with_process(args=[""]), "/process/args/0", "executable file not found in $PATH"),
        (with_process(env=["A=1", "B"]), "/process/env/1", "missing '='"),
        (with_process(env=["=1"]), "/process/env/0", "name cannot be empty"),
        (with_process(rlimits=[{**NOFILE, "type": "RLIMIT_X"}]), "/process/rlimits/0/type", "unknown rlimit"),
        (with_process(rlimits=[NOFILE, NOFILE]), "/process/rlimits/1/type", "duplicate rlimit RLIMIT_NOFILE"),
        (with_process(rlimits=[{**NOFILE, "soft": 3}]), "/process/rlimits/0/soft", "above hard limit 2"),
        (with_namespaces("pids"), "/linux/namespaces/0/type", "unknown namespace 'pids'"),
        (with_namespaces("pid", "pid"), "/linux/namespaces/1/type", "duplicate namespace"),
        (small(linux={"namespaces": [{"type": "pid", "path": "x"}]}), "/linux/namespaces/0/path", "absolute"),
        (small(hostname="h"), "/hostname", "needs a uts namespace"),
        (small(domainname="h"), "/domainname", "needs a uts namespace"),
        (with_namespaces("pid", uidMappings=[ONE]), "/linux/uidMappings", "needs a user namespace"),
        (with_namespaces("user", uidMappings=[ONE]), "/linux", "needs gidMappings"),
        (
            with_namespaces("user", uidMappings=[ONE, {**ONE, "containerID": 9, "hostID": 1}], gidMappings=[ONE]),
            "/linux/uidMappings/1",
            "overlaps",
        ),
        (
            with_namespaces("user", uidMappings=[{**ONE, "size": 2**32 - 1}], gidMappings=[ONE]),
            "/linux/uidMappings/0",
            "passes 2^32",
        ),
        (
            with_namespaces("user", uidMappings=[{**ONE, "size": 0}], gidMappings=[ONE]),
            "/linux/uidMappings/0/size",
            "size 0",
        ),
        (
            with_namespaces("user", uidMappings=[{**ONE, "containerID": 1}], gidMappings=[ONE]),
            "/linux/uidMappings",
            "container's root",
        ),
        (small(mounts=[{"destination": "/m", "type": "bind", "uidMappings": [ONE]}]), "/mounts/0", "needs gidMappings"),
        (
            small(mounts=[{"destination": "/m", "type": "tmpfs", "uidMappings": [ONE], "gidMappings": [ONE]}]),
            "/mounts/0",
            "bind mounts",
        ),
        (with_namespaces("mount", maskedPaths=["proc/x"]), "/linux/maskedPaths/0", "absolute path"),
        (with_namespaces("mount", readonlyPaths=["/a", ""]), "/linux/readonlyPaths/1", "absolute path"),
        (with_namespaces("pid", maskedPaths=["/proc/x"]), "/linux/maskedPaths", "needs a mount namespace"),
        (with_namespaces("pid", timeOffsets={"boottime": {"secs": 1}}), "/linux/timeOffsets", "time namespace"),
        (with_namespaces("pid", sysctl={"net.ipv4.ip_forward": "1"}), "/linux/sysctl/net.ipv4.ip_forward", "network"),
        (with_namespaces("pid", sysctl={"kernel/msgmax": "1"}), "/linux/sysctl/kernel~1msgmax", "ipc namespace"),
        (with_namespaces("uts", sysctl={"kernel.hostname": "1"}), "/linux/sysctl/kernel.hostname", "hostname"),
        (with_namespaces("ipc", sysctl={"vm.swappiness": "1"}), "/linux/sysctl/vm.swappiness", "not in a separate"),
        (
            with_namespaces("network", sysctl={"net/../kernel/panic": "1"}),
            "/linux/sysctl/net~1..~1kernel~1panic",
            "invalid sysctl name",
        ),
        (small(linux={"devices": [{"path": "x", "type": "c"}]}), "/linux/devices/0/path", "absolute path"),
        (
            small(linux={"resources": {"devices": [{"allow": True, "access": "xa"}]}}),
            "/linux/resources/devices/0/access",
            "'rwm'",
        ),
        (small(hooks={"createRuntime": [{"path": "x"}]}), "/hooks/createRuntime/0/path", "absolute path"),
        (
            small(linux={"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}),
            "/linux/seccomp/defaultAction",
            "cannot be the default",
        ),
    ],
)
def test_meaning(config: dict[str, Any], pointer: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        bundle.load_bundle(str(write_bundle(tmp_path, config)))
    assert e.value.pointer == pointer
    assert words in e.value.message
    assert e.value.message.startswith(f"config.json: {pointer}: ")


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.0.2-dev", "1.1.0+dev", "1.2.3-rc.1+build-5"])
def test_versions_accepted(version: str) -> None:
    assert bundle.parse_config(small(ociVersion=version)).oci_version == version


def test_sysctls_accepted() -> None:
    settings = {"net.ipv4.conf.eth0/1.forwarding": "1", "kernel/shmmax": "1", "fs.mqueue.msg_max": "5"}
    config = with_namespaces("network", "ipc", sysctl=settings)
    assert bundle.parse_config(config).linux.sysctl == settings
    assert validate.sysctl_path("net.ipv4.conf.eth0/1.forwarding") == "net/ipv4/conf/eth0.1/forwarding"
    assert validate.sysctl_path("net/ipv4/conf/eth0.1/forwarding") == "net/ipv4/conf/eth0.1/forwarding"


def test_a_repeated_variable_counts_once_with_its_last_value() -> None:
    config = with_process(env=["A=1", "B=2", "A=3=4"])
    assert bundle.parse_config(config).process.env == ("A=3=4", "B=2")


def test_relative_mount_destinations_are_below_the_root() -> None:
    config = small(mounts=[{"destination": "proc", "type": "proc"}])
    assert bundle.parse_config(config).mounts[0].destination == "/proc"


# --- the file -----------------------------------------------------------------------------------------------


def message(path: Path | str) -> str:
    with pytest.raises(Error) as e:
        bundle.load_bundle(str(path))
    assert e.value.status == 1
    assert e.value.message.isprintable()
    return e.value.message


def test_no_bundle(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == f"chdir {tmp_path}/none: no such file or directory"
    (tmp_path / "file").write_text("")
    assert message(tmp_path / "file") == f"chdir {tmp_path}/file: not a directory"
    assert "invalid argument" in message("a\0b")


def test_no_config(tmp_path: Path) -> None:
    text = message(tmp_path)
    assert text.startswith("JSON specification file config.json not found")
    assert text.endswith("no such file or directory")


def test_config_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert message(tmp_path) == f"read {tmp_path}/config.json: is a directory"
    (tmp_path / "config.json").rmdir()
    os.mkfifo(tmp_path / "config.json")
    assert message(tmp_path) == f"read {tmp_path}/config.json: not a regular file"
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("config.json")
    assert "too many levels of symbolic links" in message(tmp_path)


@pytest.mark.root
def test_unreadable_config() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_bundle(Path(name), small())
        path.chmod(0o755)
        (path / "config.json").chmod(0)
        os.seteuid(65534)
        try:
            text = message(path)
        finally:
            os.seteuid(0)
    assert text == f"open {path}/config.json: permission denied"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON: Expecting value at line 1 column 1"),
        (b"{\n  \"a\": tru\n}", "not JSON: Expecting value at line 2 column 8"),
        (b'{"a": 1,}', "not JSON: "),
        (b'{"a": 1} x', "not JSON: Extra data at line 1 column 10"),
        (b'{"a": NaN}', "not JSON: "),
        (b'{"a": "\x01"}', "not JSON: Invalid control character at"),
        (b'{"a": "\xff"}', "not JSON: invalid UTF-8 in line 1"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON: "),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: number with more than 40 digits"),
        (b'{"a": ' + b"[" * 100000, "nested too deeply"),
        (b'{"a":' * 900 + b"null" + b"}" * 900, "nested too deeply|is missing"),
        (b"null", "config.json: cannot be null"),
        (b"[]", "config.json: expected an object, found an array"),
        (b'"x"', "config.json: expected an object, found a string"),
    ],
)  # fmt: skip
def test_texts_that_are_not_a_config(data: bytes, words: str, tmp_path: Path) -> None:
    text = message(write_bundle(tmp_path, data))
    assert text.startswith("config.json: ")
    assert any(w in text for w in words.split("|"))


def test_errors_in_a_process_that_has_not_imported_json(tmp_path: Path) -> None:
    """As in the product, and unlike here; the accelerator of Python 3.11 behaves differently then."""
    code = (
        "import sys; sys.path[:0] = [p for p in sys.argv[1].split(':') if p]\n"
        "from pysandbox.oci import jsontext\n"
        "from pysandbox.oci.errors import ConfigError\n"
        "assert 'json' not in sys.modules\n"
        "for text in sys.argv[2:]:\n"
        "    for name in [m for m in sys.modules if m.startswith('json')]: del sys.modules[name]\n"
        "    try: jsontext.parse(text.encode(), 'x')\n"
        "    except ConfigError as e: print(e.message)\n"
    )
    packages = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    texts = ['{"a', '{"a"}', "[1,", '{"a": "\\x"}', "{]", '{"a": "\\u12"}', "{} {}", '{"a": Infinity}']
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, packages, *texts], check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(texts), lines
    assert all(line.startswith("x: not JSON: ") for line in lines)
    assert all("at line 1 column" in line for line in lines[:-1]), lines


@pytest.mark.parametrize(
    ("escape", "words"), [("\\u0000", "NUL character"), ("\\ud800", "surrogate"), ("\\uDFFF", "surrogate")]
)
def test_characters_that_no_path_can_hold(escape: str, words: str, tmp_path: Path) -> None:
    data = json.dumps(with_process(env=["A=1", "B=@"])).replace("@", escape).encode()
    text = message(write_bundle(tmp_path, data))
    assert text.startswith("config.json: /process/env/1: ")
    assert words in text


def test_escaped_characters_beyond_16_bits_are_fine(tmp_path: Path) -> None:
    data = json.dumps(with_process(env=["A=\U0001f600", "B=\\u0000"])).encode()
    assert b"\\ud83d" in data
    assert bundle.load_bundle(str(write_bundle(tmp_path, data))).spec.process.env == ("A=\U0001f600", "B=\\u0000")


def test_huge_config(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as f:
        f.truncate(jsontext.MAX_BYTES + 1)
    with pytest.raises(BundleError, match="larger than 16 MiB"):
        bundle.load_bundle(str(tmp_path))


def test_duplicate_keys_are_harmless(tmp_path: Path) -> None:
    data = json.dumps(small()).replace('"ociVersion"', '"ociVersion": 5, "ociVersion"', 1).encode()
    assert bundle.load_bundle(str(write_bundle(tmp_path, data))).spec.oci_version == "1.0.2"


def test_bundle_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path, small())
    monkeypatch.chdir(tmp_path)
    loaded = bundle.load_bundle("")
    assert loaded.dir == str(tmp_path)
    assert loaded.rootfs == str(tmp_path / "rootfs")
    write_bundle(tmp_path, small(root={"path": "/abs/root"}))
    assert bundle.load_bundle(".").rootfs == "/abs/root"


def test_process_file(tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(
        json.dumps({"args": ["sh"], "cwd": "/", "user": {"uid": 7}, "consoleSize": {"height": 1, "width": 2}})
    )
    process = bundle.load_process(str(path))
    assert process.user.uid == 7
    assert process.console_size is not None
    assert process.console_size.width == 2
    path.write_text(json.dumps({"args": ["sh"], "cwd": "x"}))
    with pytest.raises(ConfigError, match=r"^process\.json: /cwd: Cwd must be an absolute path"):
        bundle.load_process(str(path))
    path.write_text(json.dumps({"args": []}))
    with pytest.raises(ConfigError, match=r"^process\.json"):
        bundle.load_process(str(path))


def test_resources_of_update() -> None:
    data = {
        "memory": {"limit": 5, "swap": -1},
        "cpu": {"quota": -1, "cpus": "0-1"},
        "pids": {"limit": 9},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 2**64 - 1}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 2}]},
        "rdma": {"mlx": {"hcaHandles": 3}},
        "unified": {"memory.high": "5"},
    }
    r = bundle.parse_resources(json.dumps(data).encode())
    assert r.memory is not None
    assert (r.memory.limit, r.memory.swap) == (5, -1)
    assert r.cpu is not None
    assert (r.cpu.quota, r.cpu.cpus, r.pids_limit) == (-1, "0-1", 9)
    assert r.block_io is not None
    assert r.block_io.throttle_read_bps_device[0].rate == 2**64 - 1
    assert r.network is not None
    assert r.rdma is not None
    assert (r.network.priorities[0].priority, r.rdma["mlx"].hca_handles) == (2, 3)
    with pytest.raises(ConfigError, match="/pids/limit"):
        bundle.parse_resources(b'{"pids": {"limit": "many"}}')


def test_everything_decodes() -> None:
    """One of each property that no captured config has."""
    raw = with_namespaces(
        "time", "network",
        seccomp={
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/s", "listenerMetadata": "m", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY", "errnoRet": 1,
                          "args": [{"index": 5, "value": 2**64 - 1, "valueTwo": 7, "op": "SCMP_CMP_MASKED_EQ"}]}],
        },
        intelRdt={"closID": "c", "enableCMT": True},
        personality={"domain": "LINUX32"},
        timeOffsets={"monotonic": {"secs": -5, "nanosecs": 1}},
        netDevices={"eth1": {"name": "eth0"}, "eth2": {}},
    )  # fmt: skip
    raw["process"].update(
        scheduler={"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
        execCPUAffinity={"initial": "0", "final": "1"},
        oomScoreAdj=0,
    )
    raw["hooks"] = {"poststop": [{"path": "/h", "args": ["h"], "env": ["A=b"], "timeout": 3}]}
    spec = bundle.parse_config(raw)
    seccomp = spec.linux.seccomp
    assert seccomp is not None
    assert (seccomp.default_errno_ret, seccomp.listener_path, seccomp.listener_metadata) == (38, "/s", "m")
    arg = seccomp.syscalls[0].args[0]
    assert (arg.index, arg.value, arg.value_two) == (5, 2**64 - 1, 7)
    assert spec.linux.time_offsets is not None
    assert spec.linux.time_offsets["monotonic"].secs == -5
    assert spec.linux.net_devices is not None
    assert [d.name for d in spec.linux.net_devices.values()] == ["eth0", ""]
    assert spec.process.scheduler is not None
    assert spec.process.scheduler.nice == 5
    assert spec.process.io_priority is not None
    assert spec.process.io_priority.cls == "IOPRIO_CLASS_BE"
    assert spec.process.oom_score_adj == 0
    assert spec.hooks.poststop[0].timeout == 3
    assert spec.linux.intel_rdt is not None
    assert spec.linux.intel_rdt.enable_cmt
    assert spec.linux.personality is not None
    assert spec.linux.personality.domain == "LINUX32"


# --- records ------------------------------------------------------------------------------------------------


def test_records_are_frozen_and_strict() -> None:
    root = Root(path="a")
    with pytest.raises(AttributeError):
        root.path = "b"  # type: ignore[misc]
    with pytest.raises(TypeError, match="'path' is missing"):
        Root()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no such field: x"):
        Root(path="a", x=1)  # type: ignore[call-arg]
    assert root.replace(readonly=True) == Root(path="a", readonly=True)
    assert root != root.replace(path="b")
    assert hash(root) == hash(Root(path="a"))
    assert copy.deepcopy(root) == root
    assert repr(root) == "Root(path='a', readonly=False)"


def test_decode_is_total_for_what_the_schema_accepts() -> None:
    minimal = small(linux={"resources": {}, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}, hooks={}, mounts=[])
    validate.config(minimal)
    assert decode.config(minimal).linux.resources is not None


# --- start time ---------------------------------------------------------------------------------------------


def test_import_and_load_are_quick(tmp_path: Path, docker: dict[str, Any]) -> None:
    """Less than 8 ms for import and load of a Docker config, and none of the slow modules (byte code cached)."""
    write_bundle(tmp_path, docker)
    code = (
        "import sys, time; sys.path[:0] = [p for p in sys.argv[2].split(':') if p]\n"
        "t = time.perf_counter()\n"
        "from pysandbox.oci.bundle import load_bundle\n"
        "load_bundle(sys.argv[1])\n"
        "elapsed = time.perf_counter() - t\n"
        "import pysandbox.oci.state\n"
        "print(elapsed * 1e3)\n"
        "slow = ('re', 'enum', 'typing', 'json', 'dataclasses', 'inspect', 'jsonschema')\n"
        "print([m for m in slow if m in sys.modules])"
    )
    packages = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "pyc"), "PYTHONDONTWRITEBYTECODE": ""}
    times = []
    for _ in range(8):
        out = subprocess.run(
            [sys.executable, "-S", "-c", code, str(tmp_path), packages],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        times.append(float(out[0]))
        assert out[1] == "[]"
    assert min(times[1:]) < 8.0, times
