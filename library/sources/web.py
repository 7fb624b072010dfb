"""Requests to a hub: the client that huggingface_hub brings, and what its failures mean.

Failures fall in two: those that may pass (the line, a busy server) and those that ask something of the user.
"""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bq.library.sources.patience import Passing
from bq.runtime.errors import BqError
from bq.runtime.language import say

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0
# RFC 9110: a request timeout, too early, too many requests; and whatever the server says of itself.
_PASSING = {408, 425, 429}
_RANGE = 416


class RangeRefused(Passing):
    """The server does not go on from where the file stopped: it has to come from its beginning."""


def endpoint_of(given: str, variable: str) -> str:
    """The address of a site without a slash at its end. Raises BqError for what is none, before any library reads it."""
    try:
        parts = urlsplit(given)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        is_address = False
    if is_address and given.isprintable() and " " not in given:
        return given.rstrip("/")
    raise BqError(
        say(f"{variable} is no address of a site: {given!r}.", f"{variable} 不是站点地址：{given!r}。"),
        say("Write it as https://hub.example.org.", "请写作 https://hub.example.org。"),
    )


def say_nothing_home() -> None:
    """Keep huggingface_hub from asking its hub for a list of programs to report in its requests: nothing goes out unasked."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def session() -> "httpx2.Client":
    """huggingface_hub's client, which follows no redirect from https to http: what comes that way anyone could have written."""
    from huggingface_hub.utils import get_session

    client: httpx2.Client = get_session()
    hooks = client.event_hooks
    if refuse_downgrade not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], refuse_downgrade]}
    return client


def refuse_downgrade(answer: "httpx2.Response") -> None:
    """Raises BqError for a redirect from https to http."""
    place = answer.headers.get("location", "")
    if answer.is_redirect and answer.url.scheme == "https" and place.strip().lower().startswith("http:"):
        raise BqError(
            say(
                f"{answer.url.host} redirects to an address without TLS.",
                f"{answer.url.host} 重定向到没有 TLS 的地址。",
            ),
            say("Try another source or network.", "请换一个来源或网络。"),
        )


@contextmanager
def answering(url: str, headers: Mapping[str, str], what: str) -> "Iterator[httpx2.Response]":
    """The answer to a GET, its body still to come; redirects are followed, the token stays with the host it is for.

    Raises Passing or BqError, the body's failures included; `what` says what was asked for.
    """
    import httpx2

    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    asked = {"Accept-Encoding": "identity", **headers}  # ranges count the bytes of the file, not of a packed one
    with (
        failures(what, urlsplit(url).netloc),
        session().stream("GET", url, headers=asked, timeout=timeout) as answer,
    ):
        check_status(answer, what)
        yield answer


@contextmanager
def failures(what: str, host: str) -> Iterator[None]:
    """Turns what goes wrong on the way into Passing or BqError."""
    import httpx2

    try:
        yield
    except httpx2.TooManyRedirects:
        raise BqError(
            say(f"{host} sends the request for {what} in a circle.", f"{host} 对 {what} 的请求不断重定向。"),
            say("Check the endpoint, or try again later.", "请检查站点地址，或稍后再试。"),
        ) from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise BqError(
            say(
                f"{host} is no address that can be asked for {what}: {error}.", f"无法向 {host} 请求 {what}：{error}。"
            ),
            say("Check HF_ENDPOINT or MODELSCOPE_ENDPOINT.", "请检查 HF_ENDPOINT 或 MODELSCOPE_ENDPOINT。"),
        ) from None
    except httpx2.TimeoutException:
        raise Passing(say(f"{host} does not answer for {what}", f"{host} 对 {what} 没有响应")) from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        if _is_due_to(error, ssl.SSLCertVerificationError):
            raise _untrusted(host, error) from None
        reason = str(error) or type(error).__name__
        is_nobody = _is_due_to(error, socket.gaierror) or _is_due_to(error, ConnectionRefusedError)
        raise Passing(say(f"{host}, {what}: {reason}", f"{host}，{what}：{reason}"), is_doubtful=is_nobody) from None


def _is_due_to(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _untrusted(host: str, error: BaseException) -> BqError:
    return BqError(
        say(f"The certificate of {host} is not accepted: {error}.", f"不接受 {host} 的证书：{error}。"),
        say(
            "Check this computer's clock; behind a proxy with a certificate of its own, set SSL_CERT_FILE.",
            "请检查本机时钟；若代理使用自己的证书，请设置 SSL_CERT_FILE。",
        ),
    )


def check_status(answer: "httpx2.Response", what: str) -> None:
    """Raise Passing or BqError for an answer that is no success."""
    status, host = answer.status_code, answer.url.host
    if answer.is_success:
        return
    if status in _PASSING or status >= 500:
        text = say(f"{host} answers {status} for {what}", f"{host} 对 {what} 返回 {status}")
        raise Passing(text, retry_after(answer.headers))
    if status == _RANGE:
        raise RangeRefused(say(f"{host} does not go on with {what}", f"{host} 不能续传 {what}"))
    if status in (401, 403):
        raise BqError(
            say(f"{host} does not give {what} to everyone ({status}).", f"{host} 不公开提供 {what}（{status}）。"),
            say(
                "Accept its licence on its page, and log in (`hf auth login`, or MODELSCOPE_API_TOKEN).",
                "请在其页面接受许可协议并登录（`hf auth login`，或设置 MODELSCOPE_API_TOKEN）。",
            ),
        )
    raise BqError(
        say(f"{host} has no {what} ({status}).", f"{host} 没有 {what}（{status}）。"),
        say("Check the name and the revision.", "请检查名称与修订版。"),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait; a date (RFC 9110) is left to the usual waits."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdigit() and len(text) < 8 else None
