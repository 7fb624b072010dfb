"""The head of a card that the hub reads (YAML; hub-docs, modelcard.md): licence, origin, language, tags."""

from collections.abc import Iterator

from bq.library.card.facts import CardFacts
from bq.library.card.markdown import scalar
from bq.library.licence import licence_text

PIPELINE, LIBRARY = "text-generation", "gguf"


def front_matter(facts: CardFacts) -> str:
    """The lines with their fences."""
    return "\n".join(["---", *_lines(facts), "---"])


def _lines(facts: CardFacts) -> Iterator[str]:
    licence = facts.licence
    if licence.identifier:
        yield f"license: {scalar(licence.identifier)}"
    if licence.identifier == "other":
        yield f"license_name: {scalar(licence.slug)}"
        if address := _licence_address(facts):
            yield f"license_link: {scalar(address)}"
    if facts.base_model:
        yield "base_model:"
        yield f"- {scalar(facts.base_model)}"
        yield f"base_model_relation: {scalar(facts.relation)}"
    yield "language:"
    yield from (f"- {scalar(one)}" for one in facts.languages)
    yield f"pipeline_tag: {PIPELINE}"
    yield f"library_name: {LIBRARY}"
    yield "tags:"
    yield from (f"- {scalar(one)}" for one in tags(facts))


def tags(facts: CardFacts) -> list[str]:
    """What the repository is found by."""
    mode = [] if facts.settings.form == "raw" else ["conversational"]
    made = ["imatrix"] if any(one.imatrix for one in facts.files) else []
    return ["gguf", "llama.cpp", "baichuan", "quantized", facts.settings.variant, *mode, *made]


def _licence_address(facts: CardFacts) -> str:
    """The text in the repository itself where there is one, else where it is explained."""
    names = [path.name for path in facts.licence_files]
    texts = [name for path, name in zip(facts.licence_files, names, strict=True) if licence_text([path])]
    return (texts or names or [facts.licence.link])[0]
