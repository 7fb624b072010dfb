"""The conversations that were deleted in this run: the list and `/undo` bring the same ones back, the last one first."""


class Deletions:
    """`is_newest` says that nothing was asked since the last one: then it is what `/undo` means."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self.is_newest = False

    def add(self, id: str) -> None:
        self._ids.append(id)
        self.is_newest = True

    @property
    def last(self) -> str | None:
        """The one that comes back first."""
        return self._ids[-1] if self._ids else None

    def forget(self, id: str) -> None:
        """It is back, or gone for good."""
        self._ids = [one for one in self._ids if one != id]
        self.is_newest = self.is_newest and bool(self._ids)
