"""Frozen records with slots and keyword arguments, for the type checker the same as frozen dataclasses.

`dataclasses` costs several milliseconds at import (it needs `inspect`) and compiles source for every class; a
container start pays for both. This makes a class in microseconds. Fields are the annotations, in order; a
value in the class body is the default and must be immutable, since all instances share it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the type checkers know this name; importing `typing` for it would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


_set = object.__setattr__


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class StructType(type):
    """Turns annotations into slots and takes the defaults out of the class body."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> StructType:
        fields = tuple(f for f in body.get("__annotations__", ()) if not f.startswith("_"))
        defaults = {f: body.pop(f) for f in fields if f in body}
        for f, value in defaults.items():
            if isinstance(value, list | set | dict):
                raise TypeError(f"{name}.{f}: mutable default")
        body["__slots__"] = fields
        body["__match_args__"] = fields
        body["_defaults"] = defaults
        return type.__new__(mcs, name, bases, body)


class Struct(metaclass=StructType):
    """Base of all records. `TypeError` for a missing or an unknown field."""

    if TYPE_CHECKING:
        _defaults: ClassVar[dict[str, Any]]
        __match_args__: ClassVar[tuple[str, ...]]
    else:

        def __init__(self, **values):
            if self._defaults:
                values = {**self._defaults, **values}
            try:
                for field in self.__slots__:
                    _set(self, field, values[field])
            except KeyError:
                raise TypeError(f"{type(self).__name__}: field {field!r} is missing") from None
            if len(values) != len(self.__slots__):
                unknown = ", ".join(sorted(set(values) - set(self.__slots__)))
                raise TypeError(f"{type(self).__name__}: no such field: {unknown}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(field, value) pairs, so that `dict(record)` works."""
        return ((f, getattr(self, f)) for f in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, f) == getattr(other, f) for f in self.__match_args__)

    def __hash__(self) -> int:
        """Raises `TypeError` where a field is a mapping, as a frozen dataclass would."""
        return hash(tuple(getattr(self, f) for f in self.__match_args__))

    def __repr__(self) -> str:
        body = ", ".join(f"{f}={getattr(self, f)!r}" for f in self.__match_args__)
        return f"{type(self).__name__}({body})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})


def _rebuild(cls: type[Struct], values: dict[str, Any]) -> Struct:
    return cls(**values)
