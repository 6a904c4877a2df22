"""A small option parser that behaves as runc's does: `-x`, `--xyz V`, `--xyz=V`, before and behind arguments, except where
arguments are another program's command line."""

from __future__ import annotations

from pysandbox.oci.errors import UsageError


class Flag:
    """`names` separated by spaces, the first is the key. `value` "": a switch, else what its value is called in help.
    `many`: may be repeated, the value is then a list joined by NUL (see `Values.all`)."""

    def __init__(self, names: str, value: str, about: str, *, default: str = "", many: bool = False) -> None:
        self.names = names.split()
        self.key = self.names[0]
        self.value = value
        self.about = about
        self.default = default
        self.many = many


class Values(dict[str, str]):
    """Key -> text; a switch that is on is "true", one that is off ""."""

    def all(self, key: str) -> list[str]:
        text = self[key]
        return text.split("\0") if text else []

    def number(self, key: str) -> int:
        """A count, 0 when not given. `UsageError` for anything but digits."""
        text = self[key]
        if not text:
            return 0
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"{key}: {text!r} is not a number")
        return int(text)


class Arguments:
    """What a verb takes. `count`: how many arguments, (least, most), most None for any number. `passed_on`: the verb
    parses for itself. `leading`: options end at the first argument."""

    def __init__(
        self,
        usage: str,
        flags: tuple[Flag, ...] = (),
        count: tuple[int, int | None] = (0, None),
        *,
        passed_on: bool = False,
        leading: bool = False,
    ) -> None:
        self.usage = usage
        self.flags = flags
        self.count = count
        self.passed_on = passed_on
        self.leading = leading

    def parse(self, argv: list[str]) -> tuple[Values, list[str]]:
        """Values with defaults filled in, and the rest. `UsageError`."""
        known = {name: flag for flag in self.flags for name in flag.names}
        known.setdefault("--help", Flag("--help -h", "", "show help"))
        known.setdefault("-h", known["--help"])
        values = Values({flag.key: flag.default for flag in self.flags})
        values.setdefault("--help", "")
        arguments: list[str] = []
        position = 0
        while position < len(argv):
            word = argv[position]
            position += 1
            if word == "--":
                break
            if not word.startswith("-") or word == "-":
                arguments.append(word)
                if self.leading:
                    break
                continue
            name, has_value, value = word.partition("=")
            # Go's parser takes one dash or two for any name.
            flag = known.get(name) or known.get("-" + name) or (known.get(name[1:]) if name.startswith("--") else None)
            if flag is None:
                raise UsageError(f"flag provided but not defined: {name}")
            if not flag.value:
                if has_value and value not in ("true", "false", "1", "0"):
                    raise UsageError(f"{name}: {value!r} is not true or false")
                values[flag.key] = "" if value in ("false", "0") and has_value else "true"
                continue
            if not has_value:
                if position == len(argv):
                    raise UsageError(f"flag needs an argument: {name}")
                value = argv[position]
                position += 1
            values[flag.key] = f"{values[flag.key]}\0{value}" if flag.many and values[flag.key] else value
        return values, arguments + argv[position:]

    def check_count(self, arguments: list[str], name: str) -> None:
        least, most = self.count
        if len(arguments) < least or (most is not None and len(arguments) > most):
            exactly = (
                f"exactly {least}"
                if most == least
                else f"at least {least}"
                if len(arguments) < least
                else f"at most {most}"
            )
            raise UsageError(f'"{name}" requires {exactly} argument(s) (see {name} --help)')

    def help(self, name: str, about: str) -> str:
        lines = ["NAME:", f"   {name} - {about}", "", "USAGE:", f"   {name} {self.usage}", ""]
        shown = [(", ".join(flag.names) + (f" {flag.value}" if flag.value else ""), flag.about) for flag in self.flags]
        if shown:
            width = max(len(left) for left, _ in shown)
            lines.append("OPTIONS:")
            lines += [f"   {left.ljust(width)}  {right}" for left, right in shown]
        return "\n".join(lines) + "\n"
