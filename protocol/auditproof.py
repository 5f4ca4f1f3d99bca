"""What a broker told an auditor, examined offline: questions and answers as `kentongan node audit --keep` keeps them.

Guarantees: pure; as findings (`protocol/findings.py`), one an answer: that the broker signed it, to which question, and
which entries of the log it names. With a receipt or a delivery that names an entry of the same range and is not among
them, it convicts the broker. What the entries are is not judged here: a node does that while it asks.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.auditing import (
    CasesAnswer,
    CasesRequest,
    Exchange,
    WordsRequest,
    cases_answer,
    cases_request,
    digest_of,
    words_answer,
    words_request,
)
from protocol.errors import ProtocolError
from protocol.findings import Examiner, iso
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.statements import BROKER, Audited, statement_digest

KIND: Final = "answers to an auditor"
_exchange: Final = msgspec.json.Decoder(Exchange)


def is_kept(text: str) -> bool:
    """Whether a text begins with a kept answer."""
    try:
        decode(_exchange, text.partition("\n")[0])
    except ProtocolError:
        return False
    return True


def examine_kept(x: Examiner, text: str) -> None:
    """Find what each answer shows."""
    for number, line in enumerate(filter(None, text.split("\n")), 1):
        about = f"answer {number}"
        try:
            _examine(x, about, decode(_exchange, line))
        except ProtocolError as exc:
            x.failed(about, exc, "the answer")


def _examine(x: Examiner, about: str, kept: Exchange) -> None:
    jws, _, answer = kept.answer.partition("\n")
    opened = x.statement(about, jws, Audited, "the broker's statement")
    if opened is None:
        return
    said, key = opened
    if (said.question, said.answer) != (digest_of(kept.question.encode()), digest_of(answer.encode())):
        sentence = "The broker signed another question or another answer than these."
        x.false(about, Reason.CONTENT_CHANGED, sentence)
        return
    if not x.stands(about, key, said.at, None, "the broker's statement"):
        return
    what, facts = _words(kept.question, answer) if '"leaves"' in kept.question else _cases(kept.question, answer)
    sentence = f"{_upper(x.name(BROKER))} answered {x.name(said.aud)} on {iso(said.at)}, signed: {what}."
    x.proven(about, sentence, to=said.aud, at=iso(said.at), kid=key.record.kid, **facts)


def _cases(question: str, answer: str) -> tuple[str, dict[str, object]]:
    asked, found = decode(cases_request, question), decode(cases_answer, answer)
    leaves = ", ".join(str(case.leaf) for case in found.cases) or "none"
    what = (
        f"of the leaves {found.first} to {found.end - 1} of the log{_narrowed(asked)}, those that concern "
        f"{', '.join(found.members) or 'nobody'} are {leaves}"
        if found.end > found.first
        else f"from leaf {found.first} on there is nothing{_narrowed(asked)}"
    )
    return what, _facts(found)


def _facts(found: CasesAnswer) -> dict[str, object]:
    receipts = [statement_digest(case.receipt) for case in found.cases if case.receipt]
    receipts += [granted.opening.receipt for case in found.cases for granted in case.granted]
    return {"first": found.first, "end": found.end, "size": found.size, "receipts": receipts}


def _narrowed(asked: CasesRequest) -> str:
    said = f" with report {asked.report}" if asked.report else ""
    said += f" from {iso(asked.since)}" if asked.since else ""
    return said + (f" until {iso(asked.until)}" if asked.until else "")


def _words(question: str, answer: str) -> tuple[str, dict[str, object]]:
    asked, found = decode(words_request, question), decode(words_answer, answer)
    leaves = ", ".join(map(str, asked.leaves))
    what = f"of the leaves {leaves} it has {len(found.words)} {_kind(asked)}{', and more' if found.next else ''}"
    return what, {"words": [statement_digest(jws) for jws in found.words if jws.isascii()]}


def _kind(asked: WordsRequest) -> str:
    return "confirmations" if asked.kind == "confirmations" else "words that something is not delivered any more"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
