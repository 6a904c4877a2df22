"""config.json files recorded from engines: each is run under runc and under pysandbox, and what the container sees of itself
(ids, capabilities, limits, mounts, devices, cgroups, network, masked paths, ...) must be the same.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import config_lab
import pytest

CONFIGS = sorted((Path(__file__).parent / "data" / "configs").glob("*.json"))
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with: apt-get install runc"),
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_container_looks_the_same_under_runc(path: Path, busybox_rootfs: Path, pysandbox_command: list[str]) -> None:
    del busybox_rootfs  # config_lab copies it
    config = json.loads(path.read_text())
    # Not pytest's directory, which is closed to all but root: runc's containers with a user namespace need to get in.
    with tempfile.TemporaryDirectory(prefix="captures-") as top:
        found = config_lab.differences(config, Path(top), Path(top).name, pysandbox_command[0])
    assert not found, "\n".join(found)
