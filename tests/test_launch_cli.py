"""The command line: options as runc takes them, messages, log formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pysandbox.oci.errors import UsageError
from pysandbox.runtime.cli import VERBS
from pysandbox.runtime.cli.arguments import Arguments, Flag

ARGUMENTS = Arguments(
    usage="ID",
    flags=(Flag("--bundle -b", "DIR", ""), Flag("--detach -d", "", ""), Flag("--env", "E", "", many=True)),
    count=(1, 1),
)


def psb(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pysandbox.runtime", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})


@pytest.mark.parametrize(
    ("argv", "bundle", "detach", "rest"),
    [
        (["id"], "", "", ["id"]),
        (["-b", "x", "id"], "x", "", ["id"]),
        (["--bundle=x", "-d", "id"], "x", "true", ["id"]),
        (["-bundle", "x", "--detach=false", "id"], "x", "", ["id"]),
        (["id", "-d", "-b", "x"], "x", "true", ["id"]),
        (["id", "--", "-d"], "", "", ["id", "-d"]),
        (["-d", "--", "-d"], "", "true", ["-d"]),
        (["-"], "", "", ["-"]),
    ],
)
def test_options_as_runc_takes_them(argv: list[str], bundle: str, detach: str, rest: list[str]) -> None:
    values, arguments = ARGUMENTS.parse(argv)
    assert (values["--bundle"], values["--detach"], arguments) == (bundle, detach, rest)


def test_options_end_where_a_command_line_begins() -> None:
    arguments = Arguments(usage="ID PROGRAM", flags=ARGUMENTS.flags, count=(1, None), leading=True)
    values, rest = arguments.parse(["-d", "id", "ls", "-d", "--", "x"])
    assert (values["--detach"], rest) == ("true", ["id", "ls", "-d", "--", "x"])


def test_repeated_option() -> None:
    values, _ = ARGUMENTS.parse(["--env", "A=1", "--env=B=2", "id"])
    assert values.all("--env") == ["A=1", "B=2"]
    assert ARGUMENTS.parse(["id"])[0].all("--env") == []


@pytest.mark.parametrize("argv", [["--nope"], ["--bundle"], ["-d=7", "id"]])
def test_wrong_options(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        ARGUMENTS.parse(argv)


def test_count() -> None:
    for arguments in ([], ["a", "b"]):
        with pytest.raises(UsageError, match="requires exactly 1"):
            ARGUMENTS.check_count(arguments, "x")


def test_version_is_what_engines_parse() -> None:
    lines = psb("--version").stdout.splitlines()
    assert lines[0].startswith("pysandbox version ")
    assert lines[1].startswith("commit: ")
    assert lines[2].startswith("spec: 1.")


def test_help_of_every_verb() -> None:
    text = psb("--help").stdout
    for verb in VERBS:
        assert f"   {verb} " in text
    for verb in ("run", "do", "spec", "state", "list", "kill", "delete", "doctor"):
        shown = psb(verb, "--help")
        assert shown.returncode == 0
        assert shown.stdout.startswith(f"NAME:\n   pysandbox {verb} - ")
    for verb in ("checkpoint", "restore"):
        shown = psb(verb, "-h")
        assert (shown.returncode, "not supported" in shown.stdout) == (0, True)
        assert psb(verb, "--help").returncode == 1  # the question podman asks


def test_help_about_nothing() -> None:
    for option in ("-h", "--help"):
        shown = psb("nope", option)
        assert (shown.returncode, shown.stdout) == (3, "")
        assert "No help topic for 'nope'" in shown.stderr


def test_help_and_version_show_the_name_of_the_call(tmp_path: Path, pysandbox_command: list[str]) -> None:
    """A link in another runtime's place, for scripts that know that one's name."""
    link = tmp_path / "runc"
    link.symlink_to(pysandbox_command[0])
    starts = {("--version",): "runc version ", ("-h",): "NAME:\n   runc - ", ("list", "-h"): "NAME:\n   runc list - "}
    for options, start in starts.items():
        shown = subprocess.run([link, *options], capture_output=True, text=True, check=True)
        assert shown.stdout.startswith(start)


@pytest.mark.parametrize("argv", [["nope"], ["run"], ["run", "--nope", "x"], ["run", "a", "b"], ["kill", "x", "NOSIG"]])
def test_usage_errors_are_one_line(argv: list[str], tmp_path: Path) -> None:
    result = psb("--root", str(tmp_path / "root"), *argv)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("pysandbox: ")
    assert not (tmp_path / "root").exists()


def test_log_json(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        result = psb("--log", str(log), "--log-format=json", "run", "-b", str(tmp_path / 'no"pe'), "x")
        assert result.returncode == 1
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(entries) == 2
    assert entries[0]["level"] == "error"
    assert "no such file or directory" in entries[0]["msg"]
    assert entries[0]["msg"] in result.stderr
    assert entries[0]["time"].endswith("Z")


def test_log_json_without_a_file(tmp_path: Path) -> None:
    result = psb("--log-format", "json", "run", "-b", str(tmp_path / "nope"), "x")
    entry = json.loads(result.stderr)
    assert (entry["level"], "no such file or directory" in entry["msg"]) == ("error", True)


def test_log_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    psb("--log", str(log), "run", "-b", str(tmp_path / "nope"), "x")
    assert ' level=error msg="' in log.read_text()


def test_spec_refuses_to_overwrite(tmp_path: Path) -> None:
    assert psb("spec", "-b", str(tmp_path)).returncode == 0
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    again = psb("spec", "--bundle", str(tmp_path))
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_no_module_of_another_verb_is_imported() -> None:
    """Start time: `run` must not pay for the others, nor for slow parts of the standard library."""
    code = (
        "import sys; from pysandbox.runtime.cli import run_command; run_command(['run', '-b', '/nonexistent', 'x']);"
        "print(' '.join(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    slow = {
        "argparse",
        "json",
        "subprocess",
        "logging",
        "dataclasses",
        "typing",
        "pathlib",
        "socket",
        "ctypes",
        "re",
        "enum",
    }
    assert slow & set(loaded) == set()
    assert "pysandbox.runtime.launch" in loaded
    assert not [
        name
        for name in loaded
        if name.startswith("pysandbox.runtime.cli.") and name.split(".")[-1] not in ("run", "launching", "arguments")
    ]


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    result = psb("doctor", "--json", env={"PSB_MONITOR": str(tmp_path / "absent")})
    report = json.loads(result.stdout)
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["monitor"]["status"] == "fail"
    assert findings["monitor"]["mend"]
    assert report["ok"] is False
    assert result.returncode == 1
    assert {"kernel", "kvm", "namespaces", "cgroups", "overlay", "seccomp", "python:lief"} <= set(findings)
    for finding in findings.values():
        assert (finding["status"] == "ok") == (finding["mend"] == "")
