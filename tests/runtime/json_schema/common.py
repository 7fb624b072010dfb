"""What a model that only has noise to say says within a schema, and the judge of it: the jsonschema package."""

import json
from typing import Any

import jsonschema
import numpy as np
from hypothesis import strategies as st

from bq.runtime.constraint import by_json_schema
from bq.runtime.text_stream import harmless
from bq.runtime.tokenizer import Tokenizer
from tests.support.constrained import ramble

Schema = Any
seeds = st.integers(0, 2**32 - 1)


def validate(schema: Schema, text: str) -> Any:
    """The value of `text`, which must be JSON and valid by the schema."""
    data = json.loads(text)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(data)
    assert harmless(text) == text
    return data


def said(schema: Schema, tokenizer: Tokenizer, seed: int, limit: int = 60) -> str:
    return ramble(by_json_schema(schema), tokenizer, np.random.default_rng(seed), limit)
