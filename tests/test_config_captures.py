"""config.json files recorded from engines: each is run under runc and under pysandbox, and what the container sees of itself
(ids, capabilities, limits, mounts, devices, cgroups, network, masked paths, ...) must be the same.
"""

from __future__ import annotations

import json
import shutil
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
def test_container_looks_the_same_under_runc(
    path: Path, tmp_path: Path, busybox_rootfs: Path, pysandbox_command: list[str]
) -> None:
    config = json.loads(path.read_text())
    tmp_path.chmod(0o755)
    found = config_lab.differences(config, tmp_path, f"{path.stem}-{tmp_path.parent.name}", pysandbox_command[0])
    assert not found, "\n".join(found)
