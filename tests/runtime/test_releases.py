"""models.toml: every entry is complete, and every name that a release goes by finds it."""

import pytest

from bq.runtime.releases import Release, find_release, releases, role_generation, vocabulary_generation

ALL = releases()
_by_name = pytest.mark.parametrize("release", ALL, ids=[one.name for one in ALL])


def test_names_are_unique() -> None:
    assert len({one.name for one in ALL}) == len({(one.repository, one.revision) for one in ALL}) == len(ALL)


def test_the_text_releases_of_facts_section_1_are_all_there() -> None:
    repositories = {one.repository.removeprefix("baichuan-inc/") for one in ALL}
    assert repositories == {
        "Baichuan-7B",
        "Baichuan-13B-Base",
        "Baichuan-13B-Chat",
        "Baichuan-13B-Chat-int8",
        "Baichuan2-7B-Base",
        "Baichuan2-7B-Chat",
        "Baichuan2-13B-Base",
        "Baichuan2-13B-Chat",
        "Baichuan2-7B-Chat-4bits",
        "Baichuan2-13B-Chat-4bits",
        "Baichuan2-7B-Intermediate-Checkpoints",
        "Baichuan-M1-14B-Base",
        "Baichuan-M1-14B-Instruct",
        "Baichuan-M2-32B",
        "Baichuan-M2-32B-GPTQ-Int4",
        "Baichuan-M3-235B",
        "Baichuan-M3-235B-GPTQ-INT4",
    }
    assert [one.context for one in ALL if one.revision == "v2.0"] == [8192]


@_by_name
def test_an_entry_is_complete(release: Release) -> None:
    assert release.variant in ("base", "chat", "instruct")
    assert all((release.name, release.repository, release.revision, release.size, release.licence, release.licence_id))
    assert release.languages
    assert not release.supported or release.layout is not None
    if release.supported:
        assert release.context
        assert release.sampling
        assert release.max_new_tokens
        assert release.reason == release.remedy == ("", "")
    else:
        for english, chinese in (release.reason, release.remedy):
            assert english.endswith(".")
            assert english.isascii()
            assert chinese.endswith("。")
            assert any("一" <= character <= "鿿" for character in chinese)


@_by_name
def test_a_layout_is_the_one_of_facts_section_1(release: Release) -> None:
    layout = release.layout
    if layout is None or layout.generation is None:
        return
    assert (layout.hidden, layout.blocks, layout.ffn) == {"7B": (4096, 32, 11008), "13B": (5120, 40, 13696)}[
        release.size
    ]
    assert layout.vocab == {1: 64000, 2: 125696}[layout.generation]
    assert layout.generation == {"baichuan": 1, "baichuan2": 2}[release.generation]
    per_block = 4 * layout.hidden**2 + 3 * layout.hidden * layout.ffn + 2 * layout.hidden
    assert layout.weights == 2 * layout.vocab * layout.hidden + layout.blocks * per_block + layout.hidden
    # 512 and 800 KiB per token (shared/llama.md section 2).
    assert layout.kv_bytes(1) == {"7B": 512, "13B": 800}[release.size] * 1024


@_by_name
def test_a_layout_of_the_m_series_has_its_bases_shape(release: Release) -> None:
    """Parameters as the bases' cards give them, 32.8 and 235 billion; of Baichuan-M1 those of facts section 1."""
    if release.layout is None or release.layout.generation is not None:
        return
    layout, heads = release.layout, {"m1": (8 * 128 + 2 * 256) / 2, "m2": 8 * 128, "m3": 4 * 128}[release.generation]
    assert layout.keys == heads
    assert layout.architecture == {"m1": "baichuan_m1", "m2": "qwen2", "m3": "qwen3moe"}[release.generation]
    assert f"{layout.weights / 1e9:.1f}" == {"m1": "14.5", "m2": "32.8", "m3": "235.1"}[release.generation]
    assert layout.kv_bytes(10) == 10 * 2 * layout.blocks * heads * 2


@_by_name
def test_sizes_are_there_for_every_mixture_and_plausible(release: Release) -> None:
    if release.layout is None:
        return
    from bq.convert.mixture import MIXTURES

    sizes = release.layout.sizes
    assert set(sizes) == set(MIXTURES)
    assert sizes["F32"] == 4 * release.layout.weights
    order = ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"]
    assert [sizes[name] for name in order] == sorted(sizes[name] for name in order)


def test_a_generation_is_known_by_its_role_pieces_and_its_vocabulary() -> None:
    """As the configurations and tokenizers of the releases have them."""
    assert role_generation("<reserved_102>", "<reserved_103>") == vocabulary_generation(64000) == 1
    assert role_generation("<reserved_106>", "<reserved_107>") == vocabulary_generation(125696) == 2
    assert role_generation("<reserved_106>", "<reserved_103>") is vocabulary_generation(125697) is None


@_by_name
def test_a_release_is_found_by_every_name(release: Release) -> None:
    assert find_release(release.name) is release
    assert find_release(release.name.upper().replace("-", "_")) is release
    # Two revisions share a repository: it means the one without a revision of its own.
    main = next(one for one in ALL if one.repository == release.repository)
    folder = release.repository.split("/")[1]
    for text in (release.repository, folder, f"/models/{folder}/", f"C:\\models\\{folder}", f"~/x/{folder.lower()}"):
        assert find_release(text) is main


@pytest.mark.parametrize("text", ["", "/", "llama-2-7b", "baichuan", "Baichuan2-7B", "Baichuan2-7B-Chat-GGUF", "你好"])
def test_other_names_mean_no_release(text: str) -> None:
    assert find_release(text) is None
