"""Under load: registers across preemption, many threads on few futexes, many processes at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, compile_program, make_bundle, run_bundle, runc

pytestmark = [pytest.mark.kvm, pytest.mark.root]

NO_AVX = 77  # bnd_vectors.c
DISPATCH = ["ring", "exit"]


def prepare(where: Path, rootfs: Path, name: str, dispatch: str, *flags: str) -> Path:
    """The bundle that runs tests/programs/bnd_NAME.c."""
    built = where / "built"
    built.mkdir()
    compile_program(built / name, f"bnd_{name}.c", *flags)
    annotations = {"dev.pysandbox.dispatch": dispatch}
    return make_bundle(where / f"{name}-{dispatch}", rootfs, [f"/tmp/built/{name}"], built=built, annotations=annotations)


@pytest.mark.parametrize("dispatch", DISPATCH)
def test_vector_registers_survive_preemption(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    bundle = prepare(tmp_path, busybox_rootfs, "vectors", dispatch, "-mavx")
    if run_bundle(runc(), bundle).status == NO_AVX:
        pytest.skip("this processor has no AVX")
    assert compare(bundle).stdout == b"ticks 1, rounds 1, wrong 0\n"


@pytest.mark.parametrize("dispatch", DISPATCH)
def test_64_threads_on_few_futexes(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    result = compare(prepare(tmp_path, busybox_rootfs, "futex", dispatch))
    assert result.stdout.startswith(b"plain 12800, own 12800, inherit 1600\n")


@pytest.mark.parametrize("dispatch", DISPATCH)
def test_200_processes_in_a_tree_of_pipes(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    result = compare(prepare(tmp_path, busybox_rootfs, "tree", dispatch))
    assert result.stdout == b"sum 19900 of 19900\n"


def test_200_processes_of_a_shell(tmp_path: Path, busybox_rootfs: Path) -> None:
    """A pipeline of twenty pipelines, 200 processes in all, each passing every line on."""
    inner = "( " + " | ".join(["cat"] * 9) + " )"
    script = "seq 1 2000 | " + " | ".join([inner] * 20) + " | md5sum"
    compare(make_bundle(tmp_path / "pipeline", busybox_rootfs, ["/bin/sh", "-c", script]))
