"""How many files this process may have open: a map keeps its file open, and a Baichuan-M3 has 118 shards, which are mapped once to
convert and again to verify, where macOS allows 256 files unless asked for more.
"""

from contextlib import suppress

_OTHERS = 128  # outputs, libraries, the terminal


def allow_shards(count: int) -> None:
    """Raise the limit so that a checkpoint of so many files can be mapped twice, as far as the system lets us."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OTHERS + 2 * count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
