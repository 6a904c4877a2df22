"""The verb `rewrite`: the site report of one ELF."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

USAGE = "usage: pysandbox rewrite ELF [--json]"


def rewrite_report(path: str) -> dict[str, Any]:
    """Analyses a file (confined) and builds its image to make sure that it can be; fields of `rewrite --json`.

    Raises Error when the file cannot be read, is no x86-64 ELF, or cannot be analysed.
    """
    from time import perf_counter

    from .. import abi
    from .confine import MAX_FILE, Workshop
    from .elf import ElfError
    from .plans import _image, _read

    begin = perf_counter()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as e:
        raise ElfError(f"{path}: {(e.strerror or 'cannot be opened').lower()}", errno=e.errno) from e
    try:
        if os.fstat(fd).st_size > MAX_FILE:
            raise ElfError(f"{path}: larger than {MAX_FILE >> 20} MiB")
        _, digest, snapshot = _read(fd, keep=True)
    except OSError as e:
        raise ElfError(f"{path}: {(e.strerror or str(e)).lower()}", errno=e.errno) from e
    finally:
        os.close(fd)
    try:
        with Workshop() as workshop:
            answer = workshop.analyse([snapshot])[0]
        try:
            image = _image(snapshot, answer, digest)
        except ElfError as e:
            raise ElfError(f"{path}: {e.message}") from e
    finally:
        os.close(snapshot)
    doors = {abi.DOOR_JUMP: "jump", abi.DOOR_TRAP: "trap"}
    sites = [
        {
            "address": f"{vaddr:#x}",
            "door": doors[door],
            "number": nr if nr >= 0 else None,
            "function": str(function) if function is not None else None,
        }
        for vaddr, nr, door, _, _, function in answer["sites"]
        if door in doors
    ]
    skipped = answer.get("skipped", [])
    return {
        "file": path,
        "sha256": digest.hex(),
        "class": str(answer.get("kind")),
        "sites": sites,
        "skipped": [{"address": f"{int(row[0]):#x}", "reason": str(row[1])} for row in skipped],
        "counts": {
            "jump": sum(s["door"] == "jump" for s in sites),
            "trap": sum(s["door"] == "trap" for s in sites),
            "skipped": len(skipped),
            "cpuid": sum(row[2] == abi.DOOR_CPUID for row in answer["sites"]),
        },
        "image_bytes": len(image) if image is not None else 0,
        "seconds": round(perf_counter() - begin, 6),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as text: one line a site, then the totals."""
    lines = [f"{report['file']}: {report['class']}, sha256 {report['sha256']}"]
    for site in report["sites"]:
        number = "-" if site["number"] is None else str(site["number"])
        lines.append(f"{site['address']:>12}  {site['door']}  {number:>4}  {site['function'] or ''}".rstrip())
    lines += [f"{row['address']:>12}  skip        {row['reason']}" for row in report["skipped"]]
    counts = report["counts"]
    lines.append(
        f"{counts['jump']} jump, {counts['trap']} trap, {counts['skipped']} skipped; {report['seconds']:.2f} s"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`argv`: the words behind `rewrite`. Prints to stdout; errors are raised as `pysandbox.oci.errors.Error`."""
    from pysandbox.oci.errors import UsageError

    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(USAGE)
        return 0
    as_json = "--json" in words
    files = [w for w in words if w != "--json"]
    if len(files) != 1 or files[0].startswith("-"):
        raise UsageError(USAGE)
    report = rewrite_report(files[0])
    if as_json:
        import json

        print(json.dumps(report))
    else:
        print(format_report(report))
    return 0
