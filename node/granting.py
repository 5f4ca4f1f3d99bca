"""Does the broker grant what it may? Both sides of a report hold it to the receipt that stands in the log. Pure.

Guarantees: a recipient takes no disclosure that the log's entry does not grant it; an origin finds every grant in a
receipt that its own marking or its own policy does not allow. Together: a broker that hands out a field that it should
not must either go beyond the entry, which the recipient sees, or put it into the entry, which the origin sees.
"""

from __future__ import annotations

from protocol.envelope import SignedReport
from protocol.errors import ProtocolError
from protocol.policy import HEADER, PolicyBook, facts_of, sending_gates
from protocol.reasons import Reason
from protocol.registry import Registry, as_recipient
from protocol.report import Header
from protocol.statements import Opening, Receipt, ReportReceipt


def check_granted(report: SignedReport, opening: Opening) -> None:
    """Hold what was delivered of a report to what its entry in the log grants.

    Args:
        report: as delivered, before anything that is sealed to this member is opened.

    Raises:
        ProtocolError: something was delivered that was not granted.
    """
    exact, coarse = report.units()
    for digest, granted_exact, granted_coarse in opening.reports:
        if digest == report.digest:
            if not granted_exact & HEADER or exact & ~granted_exact or coarse & ~granted_coarse:
                raise ProtocolError(Reason.NOT_GRANTED, "$.grants", "more was delivered than the log says was granted")
            return
    raise ProtocolError(Reason.NOT_GRANTED, "$.grants", "the log's entry grants nothing of this report")


def granted_too_much(
    header: Header, said: ReportReceipt, receipt: Receipt, registry: Registry, book: PolicyBook
) -> list[str]:
    """The members that were granted more of an own report than its marking and the own policy allow.

    Args:
        header: of the own report that `said` is about.
        book: every version of the own jurisdiction's policy.
    """
    facts = facts_of(header)
    at = receipt.received_at
    found: list[str] = []
    # A version that was signed while the link was down reaches the broker after its date: the one before it counts too.
    books = book.begun(facts.origin, at)[-2:]
    for name, index in said.to.items():
        decision = receipt.decisions[index]
        if not decision.granted:
            continue
        member = registry.members.get(name)
        if header.phase == "withdrawn":
            if decision.exact & ~HEADER or decision.coarse:
                found.append(name)
            continue
        if member is None:
            # Admitted after this node last looked: the policy of its jurisdiction is not to be guessed.
            continue
        recipient = as_recipient(member)
        outcomes = [sending_gates(facts, recipient, one, at, registry.circles) for one in books]
        if all(decision.exact & ~outcome.exact or decision.coarse & ~outcome.coarse for outcome in outcomes):
            found.append(name)
    return found
