"""Model files to Hugging Face's hub, or a mirror of it (HF_ENDPOINT), in one commit: weights, card, licence, figures.

What will be sent is a value that can be shown before anything is. The token is huggingface_hub's own; an upload that broke
off goes on with the next call, which sends nothing that the hub has already (it knows large files by their sha256).
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.library.card.card import FILE_NAME, Languages, render
from bq.library.card.facts import CardFacts
from bq.library.hub_failure import failures, without_user
from bq.library.sources.source import check_repository
from bq.library.sources.web import endpoint_of
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.figures import figures_path
from bq.runtime.language import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
ANSWER_SECONDS = 300.0  # the hub looks at a whole commit before it answers
_MOST_CARD = 1 << 20


@dataclass(frozen=True)
class Item:
    """A file of the repository: one on this computer, or the text of the card. `mark` is what it was when it was looked at."""

    name: str
    source: Path | bytes
    size_bytes: int
    mark: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """All that would be sent, and where to."""

    repository: str
    is_private: bool
    items: tuple[Item, ...]
    facts: CardFacts
    endpoint: str

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)

    @property
    def site(self) -> str:
        """The hub's address for showing."""
        return without_user(self.endpoint)

    @property
    def address(self) -> str:
        """The repository's page."""
        return f"{self.site}/{self.repository}"


@dataclass(frozen=True)
class Repository:
    """What is there already; `is_private` is None for a repository that is still to be made."""

    is_private: bool | None
    names: frozenset[str] = frozenset()


def endpoint() -> str:
    """The hub's address, without a slash at its end. Raises BqError for one that is none."""
    return endpoint_of(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, "HF_ENDPOINT")


def make_plan(
    repository: str, facts: CardFacts, is_private: bool, card: Path | None = None, languages: Languages = "both"
) -> Plan:
    """Everything in its place; `card` is one of the user's own. Raises UsageError for two files of one name."""
    check_repository(repository)
    text = b"" if card else render(facts, languages).encode()
    readme = _given_card(card) if card else Item(FILE_NAME, text, len(text))
    figures = [figures_path(one.path) for one in facts.files if one.figures is not None]
    paths = [*(one.path for one in facts.files), *facts.licence_files, *figures]
    items = [*map(_item, paths), readme]
    _refuse_same_names(items)
    return Plan(repository, is_private, tuple(items), facts, endpoint())


def _given_card(path: Path) -> Item:
    """A card of the user's own. Raises UsageError for what is none."""
    try:
        item = replace(_item(path), name=FILE_NAME)
        data = path.read_bytes() if item.size_bytes <= _MOST_CARD else b""
        data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            say(f"{path} is no card that can be read: {error}.", f"无法读取模型卡 {path}：{error}。"),
            say("`bq card` writes one.", "可用 `bq card` 写出。"),
        ) from None
    if not data.startswith(b"---"):
        raise UsageError(
            say(f"{path} is no model card: it has no front matter.", f"{path} 不是模型卡：缺少头部。"),
            say("`bq card` writes one.", "可用 `bq card` 写出。"),
        )
    return item


def _item(path: Path) -> Item:
    found = path.stat()
    return Item(path.name, path, found.st_size, (found.st_size, found.st_mtime_ns))


def _refuse_same_names(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name.casefold() in seen or not item.name.isprintable():
            raise UsageError(
                say(
                    f"{item.name!r} cannot stand in the repository twice, or at all.",
                    f"{item.name!r} 重名或不能作为仓库中的文件名。",
                ),
                say("Rename the file.", "请重命名该文件。"),
            )
        seen.add(item.name.casefold())


def token() -> str:
    """The user's token, from where huggingface_hub keeps it. Raises BqError if there is none, or none that can be sent: the
    client would name it in its error.
    """
    from huggingface_hub import get_token

    found = get_token()
    if not found:
        raise BqError(
            say("You are not logged in to Hugging Face.", "尚未登录 Hugging Face。"),
            say(
                "Log in with `hf auth login`, with a token that may write, or set HF_TOKEN.",
                "请用 `hf auth login` 登录（令牌须有写权限），或设置 HF_TOKEN。",
            ),
        )
    if not re.fullmatch(r"[!-~]+", found):
        raise BqError(
            say("The token holds characters that no token has.", "令牌中含有令牌不会有的字符。"),
            say(
                "Log in again with `hf auth login`, or set HF_TOKEN anew.",
                "请用 `hf auth login` 重新登录，或重新设置 HF_TOKEN。",
            ),
        )
    return str(found)


def look_up(plan: Plan, key: str) -> Repository:
    """The repository as it is now: one question to the hub. Raises BqError if a private one was asked for and it is public."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with failures(plan.repository, plan.endpoint):
        try:
            info = _api(plan, key).repo_info(plan.repository, timeout=60)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
            return Repository(None)
    found = Repository(bool(info.private), frozenset(one.rfilename for one in info.siblings or ()))
    if plan.is_private and not found.is_private:
        raise BqError(
            say(f"{plan.repository} exists already and is public.", f"{plan.repository} 已存在且是公开的。"),
            say(
                "Make it private on the hub first, or leave --private out.", "请先在 Hub 上设为私有，或去掉 --private。"
            ),
        )
    return found


def send(plan: Plan, key: str) -> str:
    """Make the repository if need be and send all in one commit; the commit's address. Raises BqError for whatever fails."""
    from huggingface_hub import CommitOperationAdd

    with failures(plan.repository, plan.endpoint), _quiet():
        api = _api(plan, key)
        api.create_repo(plan.repository, private=plan.is_private, exist_ok=True)
        _refuse_changed(plan)
        operations = [
            CommitOperationAdd(item.name, item.source if isinstance(item.source, bytes) else str(item.source))
            for item in plan.items
        ]
        message = f"{plan.facts.settings.name}: {', '.join(dict.fromkeys(one.mixture for one in plan.facts.files))}"
        commit = api.create_commit(plan.repository, operations, commit_message=message[:200])
    return str(commit.commit_url)


def _api(plan: Plan, key: str) -> "HfApi":
    """The client. Mirrors have no Xet storage, and hf_xet asks one for minutes; they take Git LFS, as the hub does too."""
    import httpx2
    from huggingface_hub import HfApi, constants

    from bq.library.sources.web import CONNECT_SECONDS, say_nothing_home, session

    say_nothing_home()
    session().timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)  # it has none of its own
    if plan.endpoint != DEFAULT_ENDPOINT:
        constants.HF_HUB_DISABLE_XET = True
    return HfApi(endpoint=plan.endpoint, token=key, library_name="bq")


def _refuse_changed(plan: Plan) -> None:
    """What was checked and shown is what is sent."""
    for item in plan.items:
        if isinstance(item.source, Path) and _item(item.source).mark != item.mark:
            raise BqError(
                say(f"{item.name} was changed meanwhile.", f"{item.name} 在此期间被修改。"),
                say("Run the command again, so that it is checked anew.", "请重新运行该命令以再次检查。"),
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars only where someone watches, and huggingface_hub's warnings nowhere: failures are told in one line."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, logging

    verbosity: Any = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if not sys.stderr.isatty():
            enable_progress_bars()
