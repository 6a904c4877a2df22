"""`pysandbox spec` against the installed runc."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from pysandbox.oci import bundle, defaults


@pytest.mark.parametrize("rootless", [False, True])
def test_default_spec_is_valid(rootless: bool) -> None:
    spec = bundle.parse_config(json.loads(json.dumps(defaults.default_spec(rootless))))
    assert spec.process.args == ("sh",)
    assert (spec.linux.namespace("user") is not None) == rootless


@pytest.mark.parametrize("rootless", [False, True])
def test_default_spec_is_runcs(rootless: bool, tmp_path: Path) -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed: nothing to compare with")
    subprocess.run([runc, "spec", *(["--rootless"] if rootless else [])], cwd=tmp_path, check=True)
    theirs = json.loads((tmp_path / "config.json").read_text())
    ours = defaults.default_spec(rootless)
    # The differences meant: the version implemented, and whose name the host has.
    theirs["ociVersion"] = defaults.OCI_VERSION
    theirs["hostname"] = "pysandbox"
    assert json.dumps(ours) == json.dumps(theirs), "order counts too: people read this file"


def test_every_call_makes_a_fresh_spec() -> None:
    defaults.default_spec()["process"]["args"].append("x")
    assert defaults.default_spec()["process"]["args"] == ["sh"]
