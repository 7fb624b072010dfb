"""What a person means who asks for a model by name: which repository, at which revision, and in which mixture.

Nothing here touches the network; a release that cannot be converted is refused before a byte of it is fetched. One that
converts and only cannot be run here is not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bq.library.names import nearest, slug
from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.releases import Release, download_folder, find_release, releases

DEFAULT_MIXTURE = "Q4_K_M"
_TOKENS = 4096  # of a context that a default must leave room for
_BYTES_PER_WEIGHT, _NEAR = 2, 0.02
# Rows of fewer than 256 or 32 weights fill no block and stay as they are, in F32 at most: only toys have such rows.
_SMALL_BYTES, _MOST_GROWTH = 1 << 30, 2
_BUFFERS_BYTES = 512 << 20  # llama.cpp's compute buffers and the program itself, rounded up
_DEFAULT_BRANCHES = (None, "main", "master")
_COMMIT, _COMMIT_DIGITS = re.compile(r"[0-9a-f]{40}"), 8


@dataclass(frozen=True)
class Size:
    """What a file will take: exactly so much, `is_about` that, or `is_most` that."""

    bytes: int
    is_about: bool = False
    is_most: bool = False


@dataclass(frozen=True)
class Wanted:
    """`revision` is None for the repository's default one, `tag` what stood behind the colon ("Q8_0"), "" for nothing."""

    repository: str
    revision: str | None
    release: Release | None
    tag: str = ""

    @property
    def name(self) -> str:
        """What the model calls itself: as the release, else as the repository."""
        return download_folder(self.release) if self.release else self.repository.rsplit("/", 1)[-1]

    @property
    def file_name(self) -> str:
        """The name with the revision, where that is not the usual one: a commit by its first digits."""
        usual = self.release.revision if self.release else None
        if self.revision in (*_DEFAULT_BRANCHES, usual):
            return self.name
        revision = str(self.revision)
        return f"{self.name}-{revision[:_COMMIT_DIGITS] if _COMMIT.fullmatch(revision) else slug(revision)}"


def wanted(text: str, revision: str | None = None) -> Wanted:
    """A release's name or OWNER/NAME, with a mixture behind a colon if one is wanted. Raises UsageError for anything else."""
    name, _, tag = text.partition(":")
    release = named_release(name)
    if release is not None:
        _refuse_inconvertible(release)
        return Wanted(
            release.repository, revision or (None if release.revision == "main" else release.revision), release, tag
        )
    if "/" in name:
        return Wanted(name, revision, None, tag)
    close = nearest(name, [one.name for one in releases()])
    raise UsageError(
        say(f"There is no release {name}.", f"没有名为 {name} 的发布版。"),
        say(f"Did you mean {close}?", f"您是指 {close} 吗？")
        if close
        else say("`bq models` lists them; a repository is OWNER/NAME.", "`bq models` 列出全部；仓库写作 所有者/名称。"),
    )


def named_release(name: str) -> Release | None:
    """The release of this name; a repository of another owner is none."""
    release = find_release(name) if name else None
    if release is None or ("/" in name and not same_repository(name, release.repository)):
        return None
    return release


def same_repository(one: str, other: str) -> bool:
    """Hubs take upper and lower case for the same."""
    return one.casefold() == other.casefold()


def _refuse_inconvertible(release: Release) -> None:
    if not release.supported and release.layout is None:
        raise UsageError(f"{release.name}: {say(*release.reason)}", say(*release.remedy))


def mixture_of(text: str) -> str:
    """A mixture as llama.cpp writes it. Raises UsageError for one that there is not, or that needs an importance matrix."""
    from bq.convert.mixture import find_mixture

    mixture = find_mixture(text)
    if mixture.needs_importance:
        raise UsageError(
            say(f"{mixture.name} needs an importance matrix.", f"{mixture.name} 需要重要性矩阵。"),
            say(
                f"Pull Q8_0 first; then bq imatrix, and bq convert -q {mixture.name} --imatrix.",
                f"请先拉取 Q8_0，再用 bq imatrix 与 bq convert -q {mixture.name} --imatrix。",
            ),
        )
    return mixture.name


def default_mixture(sizes: Mapping[str, int], kv_bytes: int, memory_bytes: int) -> str:
    """Q4_K_M, or where that does not fit the memory, the largest that does; the smallest where none does.

    `sizes` are bytes by mixture, `kv_bytes` those of the KV cache.
    """
    room = memory_bytes - kv_bytes - _BUFFERS_BYTES
    if sizes[DEFAULT_MIXTURE] <= room:
        return DEFAULT_MIXTURE
    fitting = [(size, name) for name, size in sizes.items() if size <= room]
    return max(fitting)[1] if fitting else min((size, name) for name, size in sizes.items())[1]


def usual_mixture(release: Release | None) -> str:
    """The default for a release on this machine; for a model of unknown shape Q4_K_M."""
    if release is None or release.layout is None:
        return DEFAULT_MIXTURE
    return default_mixture(release.layout.sizes, release.layout.kv_bytes(_TOKENS), machine_bytes())


def machine_bytes() -> int:
    """The memory that a model can lie in: the host's, and that of GPUs with their own."""
    from bq.runtime.devices import devices
    from bq.runtime.errors import BqError
    from bq.runtime.host import host_memory

    try:
        gpus = sum(one.total_bytes for one in devices() if one.kind == "gpu" and not one.shares_memory)
    except BqError:  # llama.cpp cannot be loaded: the host is what counts then
        gpus = 0
    return host_memory().total_bytes + gpus


def lacking_memory(release: Release | None, size: Size) -> tuple[int, int] | None:
    """The bytes that a model of this size needs, and those that the machine has, if those are fewer."""
    layout = release.layout if release is not None else None
    needed = size.bytes + (layout.kv_bytes(_TOKENS) if layout else 0) + _BUFFERS_BYTES
    there = machine_bytes()
    return (needed, there) if needed > there else None


def fetched_bytes(weights: int) -> int:
    """What a checkpoint of so many weights takes: all releases are in bf16."""
    return _BYTES_PER_WEIGHT * weights


def _is_near(size: int, known: int) -> bool:
    return abs(size - known) < _NEAR * known


def result_size(release: Release | None, mixture: str, checkpoint_bytes: int) -> Size:
    """What the converted file will take: exactly for a checkpoint of the release's size, else from its 16 bits per weight."""
    layout = release.layout if release is not None else None
    if (
        layout is not None
        and mixture in layout.sizes
        and _is_near(checkpoint_bytes, _BYTES_PER_WEIGHT * layout.weights)
    ):
        return Size(layout.sizes[mixture])
    if checkpoint_bytes < _SMALL_BYTES:
        return Size(_MOST_GROWTH * checkpoint_bytes, is_most=True)
    layout = next(one.layout for one in releases() if one.layout)
    part = layout.sizes.get(mixture, layout.sizes["F16"]) / layout.sizes["F16"]
    return Size(int(checkpoint_bytes * part), is_about=True)
