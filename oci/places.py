"""Names in the container's root that the runtime comes back to, once it has mounted something there."""

from __future__ import annotations

import os

from pysandbox.oci import rootfs

_REMEMBERED = frozenset(("/proc", "/sys", "/dev", "/dev/pts"))


class Places:
    """What the runtime mounted at the names that it comes back to. A name in the root may lead elsewhere by then, if the
    image's owner is at work in it; a descriptor does not.

    `late`: (destination, top) of mounts to be made read-only in the end.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.late: list[tuple[str, int]] = []
        self._tops: dict[str, int] = {}

    def add(self, destination: str, top: int, *, readonly: bool) -> None:
        """Takes over `top`."""
        path = os.path.normpath(destination)
        if path in _REMEMBERED:
            self._tops[path] = top
        elif not readonly:
            os.close(top)
        if readonly:
            self.late.append((destination, top))

    def find(self, path: str) -> tuple[int, str]:
        """The innermost remembered mount that holds `path`, and the rest of the path below it ("." for itself)."""
        path = os.path.normpath(path)
        place = path
        while place != "/":
            if place in self._tops:
                return self._tops[place], path[len(place) :].lstrip("/") or "."
            place = os.path.dirname(place)
        return self.root, path.lstrip("/") or "."

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """As `rootfs.open_in`."""
        return rootfs.open_in(*self.find(path), flags)
