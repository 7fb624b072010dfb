"""The library: which models are on this computer, known by their paths. A model stays where it is; nothing is copied.

Safe with several processes and kills (see registry_file). A file that was moved is recognised by its content and keeps its
name; one that is gone stays as missing until it is forgotten. Registering changes nothing but the library itself.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from bq.library.entry import Entry as Entry
from bq.library.entry import Origin as Origin
from bq.library.home import models_folder
from bq.library.look import Seen, absolute, look
from bq.library.names import best, check_name, same, unique
from bq.library.registry_file import changing, read_entries
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

_MOST_FILES = 10_000  # that a scan looks at
_SUFFIX = ".gguf"


@dataclass(frozen=True)
class Scan:
    """What a scan found: models that are new here, those that were moved, and those that are missing still."""

    added: tuple[Entry, ...]
    moved: tuple[Entry, ...]
    missing: tuple[Entry, ...]


def entries() -> list[Entry]:
    """Every model of the library, by name. A damaged library is rebuilt first, as far as it can be."""
    found, is_sound = read_entries()
    if not is_sound:
        with suppress(BqError, OSError):
            rescan()
        found, _ = read_entries()
    return sorted(found, key=lambda one: one.name.casefold())


def register(
    path: Path, name: str | None = None, origin: Origin | None = None, checkpoint: Path | None = None
) -> Entry:
    """Put a file into the library, or bring up to date what the library says of it.

    Raises UsageError for a name that is none or is another model's, BqError for what is no whole GGUF file.
    """
    if name is not None:
        check_name(name)
    seen = look(path)
    with changing() as library:
        return _put(library, seen, name, origin, absolute(checkpoint) if checkpoint else None)


def renew(old: Entry, path: Path, origin: Origin, checkpoint: Path) -> Entry:
    """Let a model be another file from now on, that of a newer commit. Raises BqError for what is no whole GGUF file."""
    seen = look(path)
    with changing() as library:
        known = next((one for one in library if one.name == old.name), None)
        if known is not None and _of_path(library, seen.path) is None:
            _replace(library, known, replace(known, path=seen.path))
        return _put(library, seen, None, origin, absolute(checkpoint))


def find(text: str) -> Entry | None:
    """The model that a name, a path, a file's name or a release's name means; of several mixtures the best (see names.best)."""
    from bq.runtime.host import host_memory

    return best(matching(text), host_memory().total_bytes)


def matching(text: str) -> list[Entry]:
    """The models that a text may mean: one by its name, else those by a file's name or path, else those of a model's name."""
    every = entries()
    named = [one for one in every if one.name.casefold() == text.casefold()] or [
        one for one in every if same(one.name, text)
    ]
    if named:
        return named[:1]
    path = absolute(Path(text))
    of_file = [one for one in every if one.path == path or text in (one.path.name, one.path.stem)]
    of_model = [one for one in every if same(one.model_name, text)]
    return of_file or of_model


def at(path: Path) -> Entry | None:
    """The model whose file this is."""
    return _of_path(read_entries()[0], absolute(path))


def forget(entry: Entry) -> None:
    """Take it out of the library; its file stays."""
    with changing() as library:
        library[:] = [one for one in library if one.name != entry.name]


def used(path: Path) -> None:
    """Note that a model is used now, and register it if it is not known. Raises BqError for what is no whole GGUF file."""
    path = absolute(path)
    known = at(path)
    seen = None if known is not None and _is_unchanged(known) else look(path)
    with changing() as library:
        entry = _of_path(library, path) if seen is None else _put(library, seen)
        if entry is not None:
            _replace(library, entry, replace(entry, last_used=now()))


def rescan(folders: Iterable[Path] = (), beside: Iterable[Path] = ()) -> Scan:
    """Look for models in bq's own folder, in these folders and those below; for missing ones also beside all that are known,
    and in the folders `beside`. What is no GGUF file is passed over.
    """
    before = {one.name: one for one in read_entries()[0]}
    given = dict.fromkeys([*_inside([models_folder()], deep=False), *_inside(folders, deep=True)])
    missing = [one for one in before.values() if one.is_missing]
    places = dict.fromkeys([*(one.path.parent for one in before.values()), *beside])
    sizes = {one.size_bytes for one in missing}
    maybe_moved = (path for path in _inside(places, deep=False) if _size(path) in sizes) if missing else ()
    wanted = dict.fromkeys([*given, *maybe_moved])
    known = {one.path for one in before.values() if _is_unchanged(one)}
    found = list(_seen(path for path in wanted if path not in known))
    with changing() as library:
        for seen in found:
            if seen.path in given or _moved(library, seen):
                _put(library, seen)
        after = list(library)
    return Scan(
        added=tuple(one for one in after if one.name not in before),
        moved=tuple(one for one in after if one.name in before and before[one.name].path != one.path),
        missing=tuple(one for one in after if one.is_missing),
    )


def gguf_files(folder: Path) -> list[Path]:
    """Those of a folder and the folders in it."""
    return _inside([folder], deep=True)


def now() -> str:
    """The time as the library writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _put(
    library: list[Entry],
    seen: Seen,
    name: str | None = None,
    origin: Origin | None = None,
    checkpoint: Path | None = None,
) -> Entry:
    """The entry of what was seen: the file's own, one that is missing and has this content, or a new one."""
    known = _of_path(library, seen.path) or _moved(library, seen)
    others = [one.name for one in library if one is not known]
    if name is not None and name.casefold() in {one.casefold() for one in others}:
        raise UsageError(
            say(f"Another model is called {name}.", f"已有其他模型名为 {name}。"),
            say("Choose another name.", "请换一个名称。"),
        )
    is_same = known is not None and (known.size_bytes, known.digest) == (seen.size_bytes, seen.digest)
    base = known if known is not None else Entry(seen.name, seen.path, added=now())
    entry = replace(
        base,
        name=name or (base.name if base.is_named or is_same else unique(seen.name, others)),
        path=seen.path if base.is_missing else base.path,
        source=origin or (base.source if is_same else None),
        checkpoint=checkpoint or (base.checkpoint if is_same else None),
        is_named=name is not None or base.is_named,
        **{
            one: getattr(seen, one)
            for one in ("model", "variant", "mixture", "size_bytes", "bits_per_weight", "digest", "changed")
        },
    )
    if known is None:
        library.append(entry)
    else:
        _replace(library, known, entry)
    return entry


def _replace(library: list[Entry], old: Entry, new: Entry) -> None:
    library[library.index(old)] = new


def _of_path(library: Iterable[Entry], path: Path) -> Entry | None:
    """By its path, else by another path of the same file."""
    every = list(library)
    real = os.path.realpath(path)
    by_path = (one for one in every if one.path == path)
    return next(by_path, None) or next((one for one in every if os.path.realpath(one.path) == real), None)


def _moved(library: Iterable[Entry], seen: Seen) -> Entry | None:
    content = (seen.size_bytes, seen.digest)
    return next((one for one in library if (one.size_bytes, one.digest) == content and one.is_missing), None)


def _is_unchanged(entry: Entry) -> bool:
    try:
        found = entry.path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry.size_bytes, entry.changed)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _seen(paths: Iterable[Path]) -> Iterator[Seen]:
    for path in paths:
        with suppress(BqError, OSError):
            yield look(path)


def _inside(folders: Iterable[Path], deep: bool) -> list[Path]:
    """The GGUF files of folders, by path; a folder that may not be entered has none."""
    found: list[Path] = []
    for folder in folders:
        for root, below, names in os.walk(absolute(folder)):
            below[:] = sorted(below) if deep else []
            found += [Path(root, name) for name in sorted(names) if name.endswith(_SUFFIX)]
            if len(found) >= _MOST_FILES:
                return found[:_MOST_FILES]
    return [path for path in found if path.is_file()]
