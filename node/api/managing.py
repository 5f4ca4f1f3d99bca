"""Addresses for people who run the node: review, tokens, webhooks. A part of the table in `addresses.py`."""

from __future__ import annotations

from typing import Final

from node import review
from node.api import managed
from node.api.audit import LIMIT
from node.api.openapi import DOCUMENT, Operation, Parameter, json, paged
from node.api.review import TurnedAway
from node.api.tokens import Rotation
from node.api.webhooks import Replay
from node.auditing import Page
from node.tokens import Wanted
from protocol import limits
from protocol.reasons import Reason

REPORT: Final = (
    *DOCUMENT,
    Reason.UNKNOWN_RSIT_TYPE,
    Reason.UNKNOWN_RECIPIENT,
    Reason.RECIPIENTS_REQUIRED,
    Reason.TIME_IN_FUTURE,
    Reason.EXPIRED,
    Reason.EXERCISE_MIXED,
)
"""Why a report can be refused for what it says."""

REVISING: Final = (
    Reason.REVISION_CONFLICT,
    Reason.REVISION_GAP,
    Reason.OUTDATED,
    Reason.REPORT_ID_TAKEN,
    Reason.INCIDENT_ID_TAKEN,
    Reason.UNKNOWN_REPORT,
    Reason.WITHDRAWN,
    Reason.BACKLOG_FULL,
)
"""Why a report can be refused for what was filed before."""

_LEAF: Final = {"type": "integer", "minimum": 0, "maximum": 2**62 - 1, "default": 0}
_LIMIT: Final = {"type": "integer", "minimum": 0, "maximum": limits.PROOFS_PER_REQUEST, "default": LIMIT}
_TIME: Final = {"type": "string", "format": "date-time"}
_ENTRY: Final = (Reason.UNKNOWN_REVIEW, Reason.OUT_OF_RANGE)
_DECISION: Final = (*_ENTRY, Reason.OWN_FILING, Reason.ALREADY_DECIDED)

MANAGING: Final[tuple[Operation, ...]] = (
    Operation(
        "GET",
        "/v1/review",
        "listReview",
        "review",
        "Filings that wait for a person, in the order in which they came; who only submits sees its own.",
        {200: json(managed.ReviewPage)},
        reasons=(Reason.OUT_OF_RANGE, Reason.UNKNOWN_VALUE),
        parameters=(
            *paged(),
            Parameter("state", "Those in this state.", {"enum": sorted(review.STATES), "default": review.HELD}),
        ),
    ),
    Operation(
        "GET",
        "/v1/review/{id}",
        "getReview",
        "review",
        "One filing, and what was decided.",
        {200: json(managed.ReviewEntry)},
        reasons=_ENTRY,
    ),
    Operation(
        "POST",
        "/v1/review/{id}/release",
        "releaseReview",
        "review",
        "File it: from now on it is a report like any other.",
        {200: json(managed.ReviewEntry)},
        reasons=(*_DECISION, *REPORT, *REVISING),
        more="Judged as it is today: since it was held it may have expired, or a recipient have left.",
        replays=True,
    ),
    Operation(
        "POST",
        "/v1/review/{id}/refuse",
        "refuseReview",
        "review",
        "Turn it away for good, and say why.",
        {200: json(managed.ReviewEntry)},
        reasons=(*_DECISION, *DOCUMENT),
        body=json(TurnedAway, {"why": "no incident: a test of the scanner"}),
        replays=True,
    ),
    Operation(
        "GET",
        "/v1/audit",
        "audit",
        "audit",
        "Who got what of this jurisdiction's traffic, when, under which rule; asked of the broker, verified here.",
        {200: json(Page)},
        reasons=(
            Reason.NOT_ALLOWED,
            Reason.MEMBER_SUSPENDED,
            Reason.UNKNOWN_MEMBER,
            Reason.TLP_NOT_ALLOWED,
            Reason.OUT_OF_RANGE,
            Reason.INVALID_VALUE,
            Reason.WRONG_TYPE,
            Reason.UNKNOWN_REPORT,
            Reason.UNKNOWN_PATH,
        ),
        parameters=(
            Parameter("after", "The leaf at which to begin: `next` of the page before.", _LEAF),
            Parameter("limit", "Leaves of this jurisdiction on a page, at most.", _LIMIT),
            Parameter("from", "What was decided from then on.", _TIME),
            Parameter("until", "What was decided before then.", _TIME),
            Parameter("report", "Accepted revisions of this report.", {"type": "string", "format": "uuid"}),
            Parameter("recipient", "What concerns this member, or this jurisdiction.", {"type": "string"}),
            Parameter("evidence", "1: questions and answers as the broker signed them too.", {"enum": [0, 1]}),
        ),
        more="For nodes of members with the role auditor. A page can be empty and have `more` after it.",
    ),
    Operation(
        "GET",
        "/v1/tokens",
        "listTokens",
        "tokens",
        "Every token with its terms, state and last use.",
        {200: json(managed.TokenList)},
    ),
    Operation(
        "POST",
        "/v1/tokens",
        "createToken",
        "tokens",
        "Make a token. Its text is in this answer and nowhere else.",
        {201: json(managed.TokenMade)},
        reasons=(*DOCUMENT, Reason.TOKEN_EXISTS, Reason.EXPIRED),
        body=json(Wanted, {"name": "soc", "scopes": ["submit"], "tlp": "AMBER"}),
    ),
    Operation(
        "POST",
        "/v1/tokens/{name}/rotate",
        "rotateToken",
        "tokens",
        "Give a token a new text; the one before it holds for a while.",
        {200: json(managed.TokenRotated)},
        reasons=(*DOCUMENT, Reason.UNKNOWN_TOKEN),
        body=json(Rotation, {"overlap_minutes": 60}),
        bodiless=True,
    ),
    Operation(
        "POST",
        "/v1/tokens/{name}/revoke",
        "revokeToken",
        "tokens",
        "Let a token count no more, for good; what it has open ends.",
        {200: json(managed.TokenRevoked)},
        reasons=(Reason.UNKNOWN_TOKEN,),
        replays=True,
    ),
    Operation(
        "GET",
        "/v1/webhooks",
        "listWebhooks",
        "webhooks",
        "Where events go to, how far, and what holds them up.",
        {200: json(managed.WebhookList)},
    ),
    Operation(
        "POST",
        "/v1/webhooks/{name}/enable",
        "enableWebhook",
        "webhooks",
        "Let a disabled one go on where it was.",
        {200: json(managed.WebhookView)},
        reasons=(Reason.UNKNOWN_PATH,),
        replays=True,
    ),
    Operation(
        "POST",
        "/v1/webhooks/{name}/replay",
        "replayWebhook",
        "webhooks",
        "Send events again, from a number or a time on.",
        {200: json(managed.WebhookReplayed)},
        reasons=(*DOCUMENT, Reason.UNKNOWN_PATH),
        body=json(Replay, {"from": "2026-03-01T08:30:00Z"}),
    ),
    Operation(
        "POST",
        "/v1/webhooks/{name}/test",
        "testWebhook",
        "webhooks",
        "Send one request that is about nothing, and tell what came of it.",
        {200: json(managed.WebhookTested)},
        reasons=(Reason.UNKNOWN_PATH,),
    ),
)
