"""llama.cpp's token types, as they stand in the metadata of a GGUF file."""

from enum import IntEnum


class TokenType(IntEnum):
    """enum llama_token_type; SentencePiece's piece types have the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6
