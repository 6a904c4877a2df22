"""runtime/abi.py is what shim/abi.h says: current, and laid out as the C compiler lays it out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pysandbox.runtime import abi

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "shim" / "abi.h"


def structs() -> dict[str, type]:
    """C struct name -> generated class."""
    names = re.findall(r"^struct (psb_\w+) \{", HEADER.read_text(), re.M)
    return {name: getattr(abi, "".join(part.capitalize() for part in name.split("_")[1:])) for name in names}


def test_generated_file_is_current() -> None:
    subprocess.run([sys.executable, ROOT / "hack" / "gen_abi.py", "--check"], check=True)


def test_layout_is_the_compilers(tmp_path: Path) -> None:
    includes = ("<stdint.h>", "<stddef.h>", "<stdio.h>", f'"{HEADER}"')
    lines = [*(f"#include {name}" for name in includes), "int main(void) {"]
    expected = []
    for name, cls in structs().items():
        lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
        expected.append(cls.SIZE)
        for field, offset in cls.OFFSET.items():
            lines.append(f'printf("%zu\\n", offsetof(struct {name}, {field}));')
            expected.append(offset)
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "}"]))
    subprocess.run(["gcc", "-std=c11", "-w", "-o", tmp_path / "layout", source], check=True)
    out = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in out.split()] == expected
    assert len(expected) > 100


def test_constants_are_the_preprocessors() -> None:
    text = subprocess.run(["gcc", "-E", "-dM", HEADER], check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"^#define PSB_(\w+) (\w+)$", text, re.M))
    assert {name: int(value, 0) for name, value in found.items()} == {
        name: getattr(abi, name) for name in found
    }
    assert found["PORT_RAW"] == "0x22"


@pytest.mark.parametrize("name", sorted(structs()))
def test_pack_and_unpack_agree(name: str) -> None:
    cls = structs()[name]
    blob = bytes((i * 37 + 11) & 0xFF for i in range(cls.SIZE))
    assert cls.unpack(b"xx" + blob, 2).to_bytes() == blob
    assert cls.pack() == bytes(cls.SIZE)


def test_fields_land_at_their_offset() -> None:
    blob = abi.TraceRecord.pack(seq=7, args=[1, 2, 3], ret=-2)
    record = abi.TraceRecord.unpack(blob)
    assert (record.seq, record.args, record.ret) == (7, (1, 2, 3, 0, 0, 0), -2)
    at = abi.TraceRecord.OFFSET["seq"]
    assert blob[at : at + 8] == (7).to_bytes(8, "little")
    policy = abi.Policy.unpack(abi.Policy.pack(entry=[abi.PolicyEntry(first=3, count=4)]))
    assert (policy.entry[0].first, policy.entry[0].count, len(policy.entry)) == (3, 4, 512)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="comm"):
        abi.TraceChunk.pack(comm=b"x" * 17)
    with pytest.raises(ValueError, match="args"):
        abi.TraceRecord.pack(args=range(7))
    with pytest.raises(TypeError):
        abi.TraceRecord.pack(nonsense=1)


def test_the_generator_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "hack"))
    try:
        import gen_abi
    finally:
        sys.path.remove(str(ROOT / "hack"))
    good = HEADER.read_text()
    assert gen_abi.generate(good)
    for wrong, why in (
        (good.replace("#define PSB_ITEM_BYTES 3", "#define PSB_ITEM_BYTES (1 + 2)"), "plain number"),
        (good.replace("uint32_t nfds;\n\tuint32_t role[16]", "uint16_t nfds;\n\tuint32_t role[16]"), "padding"),
        (good.replace("uint64_t exits;", "unsigned exits;"), "unknown type"),
        (good.replace("PSB_ABI_DECLS", "NOTHING"), "missing"),
    ):
        assert wrong != good
        with pytest.raises(gen_abi.AbiError, match=why):
            gen_abi.generate(wrong)
