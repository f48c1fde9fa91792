"""Give each message of the source that has none yet a code: `python docs/error_codes.py` writes `codes.json`.

The first two digits tell the class of the error. A code that a message once had is never given to another: what is no
longer said keeps its line, without the message, so that no error that is like it leads to a code that no page has.
"""

from __future__ import annotations

import json

from error_texts import PACKAGE, error_texts

from autoadapt.errors.codes import known_codes

PLACE = PACKAGE / "errors" / "codes.json"


def all_codes() -> dict[str, tuple[str, str]]:
    """The codes that are known, and new ones for the messages that have none; in order."""
    texts = error_texts()
    said = {(text.kind, text.summary) for text in texts}
    codes = {code: known if known in said else (known[0], "") for code, known in known_codes().items()}
    told = set(codes.values())
    for text in texts:
        if (text.kind, text.summary) not in told:
            codes[_next(text.kind, codes)] = (text.kind, text.summary)
    return dict(sorted(codes.items()))


def _next(kind: str, codes: dict[str, tuple[str, str]]) -> str:
    """The first free code of a class; a new class begins with the next hundred."""
    numbers = {int(code.removeprefix("AA")): owner for code, (owner, _) in codes.items()}
    mine = [number for number, owner in numbers.items() if owner == kind]
    number = max(mine, default=100 * (max(numbers, default=-1) // 100 + 1)) + 1
    assert number % 100, f"{kind} has no code left"
    return f"AA{number:04}"


if __name__ == "__main__":
    lines = [f"{json.dumps(code)}: {json.dumps(said, ensure_ascii=False)}" for code, said in all_codes().items()]
    PLACE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    known_codes.cache_clear()
