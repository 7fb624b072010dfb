"""A small tokenizer, which cuts text into pieces of all kinds."""

import pytest

from bq.runtime.tokenizer import Tokenizer
from tests.runtime.conftest import OpenPair
from tests.support.tokenizer import small_tokenizer


@pytest.fixture(scope="session")
def small(open_pair: OpenPair) -> Tokenizer:
    return open_pair(2, small_tokenizer(2))[0]
