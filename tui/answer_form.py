"""What an answer has to look like, as data that a template keeps and that the model's process turns into a constraint."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AnswerForm:
    """`text` is what `bq run` takes: `--choices` its list (yes,"no, never"), `--json-schema` and `--grammar` their content."""

    kind: Literal["choices", "json_schema", "grammar"]
    text: str
