"""What goes wrong on the way: either it is mended without a word, or one line says what it is, and nothing wrong stays."""

import random
import threading
from pathlib import Path

import pytest

from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.patience import Patience
from bq.library.sources.source import Listing, RemoteFile, Source, Watcher
from bq.library.sources.web import refuse_downgrade, session
from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import set_language
from tests.support.hub_repositories import a_release
from tests.support.hub_server import Fault, HubServer

from .conftest import NAME, QUICK, everything_below, fetch_one

SHARD = "pytorch_model-00001-of-00002.bin"
SMALL = "config.json"
MENDED = {
    "cut": Fault(cut_after=100_000),
    "cut at once": Fault(cut_after=0),
    "cut three times": Fault(times=3, cut_after=70_000),
    "wrong bytes once": Fault(wrong=True),
    "busy": Fault(status=503),
    "busy three times": Fault(times=3, status=503),
    "too many requests": Fault(status=429, headers={"Retry-After": "0"}),
    "a date to come back": Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "a bad gateway": Fault(status=502),
    "a length too large": Fault(length_off=1000),
    "a length too small": Fault(length_off=-1000),
}
REFUSED = {
    "a login": (Fault(times=9, status=401), "hf auth login"),
    "a licence to accept": (Fault(times=9, status=403, headers={"X-Error-Code": "GatedRepo"}), "Accept its licence"),
    "gone": (Fault(times=9, status=404), "Check the name"),
    "a circle": (Fault(times=99, loop=True), "in a circle"),
    "wrong bytes always": (Fault(times=9, wrong=True), "twice. It was thrown away"),
    "busy for long": (Fault(times=99, status=503), "4 times in a row"),
    "an hour to wait": (Fault(status=429, headers={"Retry-After": "3600"}), "asks to wait 3600 s"),
    "cut before anything, always": (Fault(times=99, cut_after=0), "4 times in a row. Check the connection"),
}


@pytest.mark.parametrize("file", [SHARD, SMALL])
@pytest.mark.parametrize("kind", MENDED)
def test_what_passes_is_mended(hub: HubServer, release: dict[str, bytes], kind: str, file: str) -> None:
    """The sources take turns: the bytes come the same way for both."""
    source = Hub(patience=QUICK) if (len(kind) + len(file)) % 2 else ModelScope(patience=QUICK)
    hub.publish(NAME, release)
    fault = Fault(**vars(MENDED[kind]))
    hub.fault(file, fault)
    assert fetch_one(source, file) == release[file]
    assert fault.times < MENDED[kind].times, "the fault was met"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass_is_refused_in_a_line_and_leaves_nothing_wrong(
    hub: HubServer, source: Source, release: dict[str, bytes], kind: str, own_home: Path, tmp_path: Path
) -> None:
    hub.publish(NAME, release)
    fault, words = REFUSED[kind]
    hub.fault(SHARD, Fault(**vars(fault)))
    with pytest.raises(BqError) as caught:
        fetch_one(source, SHARD)
    assert words in str(caught.value)
    assert "127.0.0.1" in str(caught.value) or SHARD in str(caught.value)
    left = [path.read_bytes() for path in everything_below(own_home / "downloads", tmp_path / "hf" / "hub")]
    assert all(data == b"" or data.startswith(b"{") for data in left), "locks, and ModelScope's kept listing"


def test_a_refusal_that_would_not_pass_is_not_asked_for_again(hub: HubServer, source: Source) -> None:
    hub.publish(NAME, a_release())
    hub.fault(SMALL, Fault(times=9, status=403))
    with pytest.raises(BqError):
        fetch_one(source, SMALL)
    assert len(hub.asked(SMALL)) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_listing_is_asked_for_again(
    hub: HubServer, source: Source, release: dict[str, bytes], status: int
) -> None:
    hub.publish(NAME, release)
    hub.fault("listing", Fault(times=2, status=status))
    assert source.listing(NAME).files


def test_a_gated_listing_says_what_to_do(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    hub.fault("listing", Fault(times=9, status=403, headers={"X-Error-Code": "GatedRepo"}))
    with pytest.raises(BqError, match="Accept its licence on its page"):
        source.listing(NAME)
    set_language("zh")
    with pytest.raises(BqError, match="接受许可协议"):
        source.listing(NAME)


def test_a_site_where_nobody_listens_is_named_soon(
    hub: HubServer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(BqError, match=r"127\.0\.0\.1:9.*2 times in a row.*--offline"):
        source.listing(NAME)


def test_the_advice_is_for_the_source_that_was_asked(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    """And promises nothing of what did not come."""
    hub.publish(NAME, release)
    hub.fault("listing", Fault(times=99, status=503))
    other, own = ("--from modelscope", "--from hf")[:: 1 if source.name == "hf" else -1]
    for language in ("en", "zh"):
        set_language(language)  # type: ignore[arg-type]
        with pytest.raises(BqError) as caught:
            source.listing(NAME)
        said = str(caught.value)
        assert other in said
        assert own not in said
        assert ("HF_ENDPOINT" in said) == (source.name == "hf")
        assert "What came is kept" not in said
        assert "已下载的部分会保留" not in said


def test_an_unknown_host_is_told_soon_and_offline_named(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://no-such-hub.invalid")  # RFC 6761: such a name never resolves
    with pytest.raises(BqError, match=r"no-such-hub\.invalid.*2 times in a row.*--offline"):
        source.listing(NAME)


def test_a_wait_for_a_listing_is_told(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    hub.fault("listing", Fault(status=503))
    told: list[str] = []
    cancel = threading.Event()

    def note(text: str) -> None:
        told.append(text)
        cancel.set()

    slow = type(source)(patience=Patience(first_seconds=60))  # type: ignore[call-arg]
    with pytest.raises(Cancelled):
        slow.listing(NAME, None, Watcher(note=note, cancel=cancel))
    assert "answers 503" in told[0]


@pytest.mark.parametrize(
    "address", ["http://[::1", "foo://x", "https://", "https://a b", "ftp://x", "http://x:y", "http://x:99999"]
)
def test_what_is_no_address_is_told_before_anything_is_asked(
    source: Source, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, address)
    with pytest.raises(BqError, match="ENDPOINT is no address of a site"):
        source.listing(NAME)


def test_no_redirect_leaves_tls() -> None:
    import httpx2

    def answer(start: str, location: str) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": location}, request=httpx2.Request("GET", start))

    for start, location in (("https://a/x", "https://b/x"), ("https://a/x", "/y"), ("http://a/x", "http://b/x")):
        refuse_downgrade(answer(start, location))
    with pytest.raises(BqError, match="without TLS"):
        refuse_downgrade(answer("https://a/x", "HTTP://a/x"))
    assert refuse_downgrade in session().event_hooks["response"]
    assert session().event_hooks["response"].count(refuse_downgrade) == 1


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Fault(times=99, no_range=True), 2),
        (Fault(times=99, range_refused=True), 3),
        (Fault(times=99, range_moved=500), 3),
    ],
)
def test_a_server_that_never_goes_on_is_asked_for_the_whole(
    hub: HubServer, source: Source, release: dict[str, bytes], fault: Fault, requests: int
) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(cut_after=100_000))
    hub.fault(SHARD, Fault(**vars(fault)))
    assert fetch_one(source, SHARD) == release[SHARD]
    assert len([one for one in hub.asked(SHARD) if not one.is_cdn]) == requests


@pytest.mark.parametrize("fault", [Fault(range_refused=True), Fault(no_range=True)])
def test_a_server_that_cuts_and_never_goes_on_is_given_up(
    hub: HubServer, source: Source, release: dict[str, bytes], fault: Fault
) -> None:
    """Each whole begun anew brings bytes, but never more of them than before."""
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(**{**vars(fault), "times": 99, "cut_after": 100_000}))
    with pytest.raises(BqError, match="4 times in a row"):
        fetch_one(source, SHARD)


def test_an_earlier_range_overlaps_and_is_used(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(cut_after=100_000))
    hub.fault(SHARD, Fault(range_moved=-500))
    assert fetch_one(source, SHARD) == release[SHARD]
    assert len([one for one in hub.asked(SHARD) if not one.is_cdn]) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_call_after_a_cut_goes_on_at_the_very_byte(hub: HubServer, release: dict[str, bytes], seed: int) -> None:
    """One file, cut at two places drawn by chance; the sources take turns."""
    once = Patience(tries=1)
    source: Source = Hub(patience=once) if seed % 2 else ModelScope(patience=once)
    hub.publish(NAME, release)
    numbers, size = random.Random(seed), len(release[SHARD])
    cuts = [numbers.randrange(1, size // 2) for _ in range(2)]
    for cut in cuts:
        hub.fault(SHARD, Fault(cut_after=cut))
        with pytest.raises(BqError, match="What came is kept"):
            fetch_one(source, SHARD)
    listing = source.listing(NAME)
    assert source.missing(listing, [one for one in listing.files if one.path == SHARD]) == size - sum(cuts)
    assert fetch_one(source, SHARD) == release[SHARD]
    ranges = [one.range for one in hub.asked(SHARD) if not one.is_cdn]
    assert ranges == [None, f"bytes={cuts[0]}-", f"bytes={sum(cuts)}-"]


@pytest.mark.parametrize("length", [1, 90_000, 400_000])
def test_a_part_file_with_other_bytes_does_not_spoil_the_file(
    hub: HubServer, source: Source, release: dict[str, bytes], own_home: Path, tmp_path: Path, length: int
) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(cut_after=50_000))
    with pytest.raises(BqError):
        fetch_one(type(source)(patience=Patience(tries=1)), SHARD)  # type: ignore[call-arg]
    (part,) = [path for path in everything_below(own_home, tmp_path / "hf") if path.suffix in (".part", ".incomplete")]
    part.write_bytes(b"\0" * length)
    assert fetch_one(source, SHARD) == release[SHARD]
    assert not part.exists()


def test_what_does_not_fit_the_disk_is_refused_before_its_first_byte(
    hub: HubServer, source: Source, release: dict[str, bytes]
) -> None:
    hub.publish(NAME, release)
    listing = source.listing(NAME)
    huge = RemoteFile("model.safetensors", 10**18, sha256="0" * 64)
    before = len(hub.requests)
    with pytest.raises(BqError, match=r"1000000000\.0 GB are to come, and the disk of .* has .* free"):
        source.fetch(Listing(source.name, NAME, "main", listing.commit, (huge,)), [huge], Watcher())
    assert len(hub.requests) == before


def test_waits_double_and_a_server_may_ask_for_less() -> None:
    patience = Patience(first_seconds=1, most_seconds=60)
    for tried, seconds in enumerate((1, 2, 4, 8, 16, 32, 60, 60), 1):
        assert 0.75 * seconds <= patience.seconds(tried, None) <= 1.25 * seconds
    assert patience.seconds(5, 0.5) == 0.5
