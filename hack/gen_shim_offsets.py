"""Write the shim's symbols as a C header of offsets: gen_shim_offsets.py NM SHIM_ELF OUTPUT."""

import subprocess
import sys


def main() -> int:
    """Read the symbol table with nm; the shim is linked at 0, so values are offsets into the flat image."""
    nm, elf, output = sys.argv[1:]
    listing = subprocess.run([nm, "--defined-only", elf], check=True, capture_output=True, text=True).stdout
    lines = ["/* Generated from the linked shim. */", "#pragma once"]
    for entry in sorted(listing.splitlines()):
        value, _, name = entry.split()
        if name.startswith("shim_"):
            lines.append(f"#define {name.upper()} 0x{value}ul")
    with open(output, "w", encoding="ascii") as header:
        header.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
