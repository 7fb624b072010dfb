"""What goes wrong while something is sent to the hub, as one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from bq.runtime.errors import BqError
from bq.runtime.language import say

_LONGEST = 300
_BUSY, _SERVER = 429, 500


@contextmanager
def failures(repository: str, endpoint: str) -> Iterator[None]:
    """Turns the errors of huggingface_hub and its client into BqError; those of this program pass."""
    try:
        yield
    except BqError:
        raise
    except Exception as error:
        found = _failure(_cause(error), repository, urlsplit(without_user(endpoint)).netloc)
        if found is None:
            raise
        raise found from None


def without_user(address: str) -> str:
    """The address without a name and password."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _cause(error: BaseException) -> BaseException:
    """huggingface_hub wraps what broke an upload in a RuntimeError."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error


def _failure(error: BaseException, repository: str, host: str) -> BqError | None:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _of_status(error.response.status_code, _message(error), repository, host)
    if isinstance(error, OfflineModeIsEnabled):
        return offline()
    # A RuntimeError is what hf_xet, which sends large files where the hub wants it, makes of every trouble of its own.
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | ConnectionError | RuntimeError):
        return BqError(
            say(
                f"The connection to {host} failed: {_short(str(error)) or type(error).__name__}.",
                f"与 {host} 的连接失败：{_short(str(error)) or type(error).__name__}。",
            ),
            _again(),
        )
    if isinstance(error, ValueError):  # an answer that makes no sense, or a card that the hub does not take
        return BqError(
            say(f"{host} does not take this: {_short(str(error))}", f"{host} 不接受：{_short(str(error))}"),
            say("Mend the card and give it with --card, or report it.", "请修正模型卡并用 --card 给出，或报告此问题。"),
        )
    return None


def offline() -> BqError:
    """The refusal where no network is wanted."""
    return BqError(
        say("bq is offline, and publishing needs the network.", "bq 处于离线模式，而发布需要网络。"),
        say(
            "Leave out --offline and HF_HUB_OFFLINE. --dry-run works without.",
            "请去掉 --offline 与 HF_HUB_OFFLINE。--dry-run 无需网络。",
        ),
    )


def _of_status(status: int, message: str, repository: str, host: str) -> BqError:
    said = f" {message}" if message else ""
    if status == 401:
        return BqError(
            say(f"{host} does not take the token (401).", f"{host} 不接受该令牌（401）。"),
            say(
                "Log in again with `hf auth login`, or renew HF_TOKEN.",
                "请用 `hf auth login` 重新登录，或更新 HF_TOKEN。",
            ),
        )
    if status == 403:
        return BqError(
            say(f"You may not write to {repository} (403).{said}", f"无权写入 {repository}（403）。{said}"),
            say(
                "Use a token with the right to write, and a repository of yours or your organization.",
                "请使用有写权限的令牌，以及您或您所在组织的仓库。",
            ),
        )
    if status in (409, 412):
        return BqError(
            say(
                f"{repository} is being changed by someone else ({status}).{said}",
                f"{repository} 正被他人修改（{status}）。{said}",
            ),
            _again(),
        )
    if status == _BUSY or status >= _SERVER:
        return BqError(
            say(f"{host} is in trouble or busy ({status}).", f"{host} 出现故障或繁忙（{status}）。"), _again()
        )
    return BqError(
        say(f"{host} refuses ({status}).{said}", f"{host} 拒绝（{status}）。{said}"),
        say(
            f"Check the name {repository} and what is sent (--dry-run).",
            f"请检查名称 {repository} 与要发送的内容（--dry-run）。",
        ),
    )


def _again() -> str:
    return say(
        "Run the same command again: what has arrived is not sent twice.",
        "请再次运行同一命令：已送达的内容不会重复发送。",
    )


def _message(error: object) -> str:
    """What the server says itself."""
    return _short(str(getattr(error, "server_message", None) or ""))


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]
