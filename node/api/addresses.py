"""The table of the node's addresses, one entry each: what `/openapi.json` and `/docs` are made of.

A test holds it to the router: an address that is not here, or is here only, fails it; and another posts to all of them
and holds the answers to what is declared.
"""

from __future__ import annotations

from typing import Annotated, Final, get_args

from msgspec import Meta

from node.api import managed, shapes
from node.api.alarms import Cleared
from node.api.inbox import Spoken
from node.api.managing import MANAGING, REPORT, REVISING
from node.api.openapi import DOCUMENT, EVENTS, TEXT, Content, Operation, Parameter, Schema, json, paged
from node.api.reports import LONGEST_KEY
from node.formats.registry import FORMATS, NDJSON, PROFILE
from protocol import limits, taxonomy, wording
from protocol.access import TLPS
from protocol.door import JSON
from protocol.reasons import Reason
from protocol.report import Filing

_EXAMPLE: Final = {
    "marking": {"tlp": "AMBER"},
    "rsit": [{"class": "malicious-code", "type": "c2-server"}],
    "severity": {"score": 60},
    "sectors": [{"code": "finance.banking"}],
    "body": {
        "title": "Command and control server of a banking trojan",
        "times": {"detected": {"value": "2026-03-01T08:30:00Z"}},
        "indicators": [{"type": "ipv4-addr", "value": "203.0.113.44"}],
    },
}
_MANY: Final = Annotated[list[Filing], Meta(min_length=1, max_length=limits.REPORTS_PER_POST)]
_WORDS: Final[Schema] = {"type": "string"}
_REVISION: Final = Parameter(
    "revision", "Which revision; the newest if not said.", {"type": "integer", "minimum": 1, "maximum": 100_000}
)
IN_PATH: Final = {
    "report_id": Parameter(
        "report_id", "The report's id.", {"type": "string", "format": "uuid"}, place="path", required=True
    ),
    "id": Parameter(
        "id",
        "Its number.",
        {"type": "integer", "minimum": 0, "maximum": 2**62},
        place="path",
        required=True,
    ),
    "name": Parameter("name", "Its name.", {"type": "string"}, place="path", required=True),
}
_KEY: Final = Parameter(
    "Idempotency-Key",
    "Drawn once for a request and sent with each repetition of it: the answer is that of the first time, for 30 days.",
    {"type": "string", "maxLength": LONGEST_KEY, "pattern": "^[!-~]*$"},
    place="header",
)
_FORMAT_IN: Final = Parameter(
    "format", "In which format this is, whatever the content type says.", {"enum": [PROFILE, *FORMATS]}
)
_WRITING: Final = [known for known in FORMATS.values() if known.writes]
_FORMAT_OUT: Final = Parameter(
    "format",
    "In which format to show it; of a report, its newest revision.",
    {"enum": [PROFILE, *(known.name for known in _WRITING)]},
)
_MARKING: Final = (
    Parameter("tlp", "The marking of what says none in another format.", {"enum": [*TLPS]}),
    Parameter("pap", "The same for PAP; goes with `tlp`.", {"enum": [*get_args(taxonomy.Pap)]}),
    Parameter("recipients", "Jurisdictions, divided by commas, for TLP:RED; goes with `tlp`.", _WORDS),
)


def _foreign(media: str) -> Schema:
    """Another standard describes it."""
    return {} if media.endswith("json") else _WORDS


_WRITTEN: Final = tuple(Content(known.media_types[0], _foreign(known.media_types[0])) for known in _WRITING)
_PROOF_MISSES: Final = (Reason.UNKNOWN_REPORT, Reason.NOT_WITNESSED, Reason.LEAF_MISSING, Reason.OUT_OF_RANGE)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "POST",
        "/v1/reports",
        "fileReports",
        "reports",
        "File one report, an array, or NDJSON. 202 means: signed and on disk.",
        {
            202: (Content(JSON, (shapes.Filed, shapes.HeldFiling, shapes.FiledMany)),),
            422: json(shapes.FiledMany),
            429: json(shapes.FiledMany),
        },
        reasons=(
            *REPORT,
            Reason.EMPTY,
            Reason.TOO_MANY,
            Reason.UNSUPPORTED_MEDIA,
            *REVISING,
            Reason.IDEMPOTENCY_KEY_REUSED,
            Reason.TLP_NOT_ALLOWED,
            Reason.SECTOR_NOT_ALLOWED,
            Reason.PURPOSE_NOT_ALLOWED,
            Reason.QUOTA_EXCEEDED,
        ),
        body=(
            Content(JSON, (Filing, _MANY), _EXAMPLE),
            Content(NDJSON, _WORDS),
            *(Content(media, _foreign(media)) for known in FORMATS.values() for media in known.media_types),
        ),
        parameters=(_KEY, _FORMAT_IN, *_MARKING),
        headers=("Location", "RateLimit-Policy", "RateLimit"),
        more=(
            f"At most {limits.REPORTS_PER_POST} reports and {limits.HTTP_BODY >> 20} MiB a request. Several are "
            "judged one by one and answered in order: 202 if any was accepted, else 422. Equal content, or the same "
            "key, posted again is the same report and gets the same answer. After a 503, or no answer at all, send "
            "the same request again with the same key. A token can be made so that what it files waits for a person: "
            "its state is then `held`. Other formats are named by content type or `format`; their answer is always a "
            "list, and says of each item where it stood (`source`)."
        ),
        replays=True,
    ),
    Operation(
        "GET",
        "/v1/reports",
        "listReports",
        "reports",
        "This member's reports, revision by revision, in the order of filing.",
        {200: json(shapes.OwnPage)},
        reasons=(Reason.OUT_OF_RANGE,),
        parameters=paged(),
    ),
    Operation(
        "GET",
        "/v1/reports/{report_id}",
        "getReport",
        "reports",
        "What became of a report: who has it, who does not and by which rule, who confirmed it.",
        {200: (*json(shapes.OwnReport), *_WRITTEN)},
        reasons=(Reason.UNKNOWN_REPORT, Reason.UNSUPPORTED_MEDIA),
        parameters=(_FORMAT_OUT,),
    ),
    Operation(
        "GET",
        "/v1/reports/{report_id}/proof",
        "getReportProof",
        "reports",
        "The proof that what became of a report stands in the broker's witnessed log (C2SP tlog-proof).",
        {200: (Content(TEXT, _WORDS),)},
        reasons=_PROOF_MISSES,
        parameters=(_REVISION,),
    ),
    Operation(
        "GET",
        "/v1/submissions/{id}",
        "getSubmission",
        "reports",
        "How far each item is of a POST of several, for 30 days and for the token that posted.",
        {200: json(shapes.SubmissionView)},
        reasons=(Reason.UNKNOWN_PATH,),
        parameters=(Parameter("id", "Out of the POST's `Location`.", {"type": "string"}, place="path", required=True),),
    ),
    Operation(
        "GET",
        "/v1/inbox",
        "listInbox",
        "inbox",
        "Other members' reports in the order of arrival.",
        {200: (*json(shapes.InboxPage), *_WRITTEN)},
        reasons=(Reason.OUT_OF_RANGE, Reason.UNSUPPORTED_MEDIA),
        parameters=(*paged(), _FORMAT_OUT),
        more="In another format the following page stands in the header `Link`.",
    ),
    Operation(
        "GET",
        "/v1/inbox/{report_id}",
        "getInboxReport",
        "inbox",
        "All revisions of another member's report, with the origin's signed bytes.",
        {200: (*json(shapes.InboxReport), *_WRITTEN)},
        reasons=(Reason.UNKNOWN_REPORT, Reason.UNSUPPORTED_MEDIA, Reason.EXPIRED),
        parameters=(_FORMAT_OUT,),
    ),
    Operation(
        "GET",
        "/v1/inbox/{report_id}/proof",
        "getInboxProof",
        "inbox",
        "The proof that what was delivered is what the broker's log says was granted.",
        {200: (Content(TEXT, _WORDS),)},
        reasons=_PROOF_MISSES,
        parameters=(_REVISION,),
    ),
    Operation(
        "POST",
        "/v1/inbox/{report_id}/confirm",
        "confirmReport",
        "inbox",
        "Tell a report's origin: read, acting, closed.",
        {200: json(shapes.Said)},
        reasons=(*DOCUMENT, Reason.UNKNOWN_REPORT),
        body=json(Spoken, {"state": "read"}),
        replays=True,
    ),
    Operation(
        "GET",
        "/v1/feed",
        "listen",
        "feed",
        "Everything that happens, as it happens, as server-sent events.",
        {200: (Content(EVENTS, _WORDS),)},
        reasons=(Reason.OUT_OF_RANGE,),
        parameters=(
            Parameter(
                "Last-Event-ID",
                "The `id` of the last event that was taken; the stream goes on after it and skips none.",
                {"type": "integer", "minimum": 0, "maximum": 2**62},
                place="header",
            ),
            Parameter("after", "The same, for who cannot send the header.", {"type": "integer", "minimum": 0}),
        ),
        more=(
            "Without a position the stream begins with what happens next; its first line is the `id` from which to go "
            "on if the connection breaks before the first event. `data` is one JSON object with ids, states and "
            "reasons, never content. A comment comes every 15 seconds in which nothing happens."
        ),
    ),
    Operation(
        "POST",
        "/v1/policy/explain",
        "explain",
        "policy",
        "Who would get what of this report, by which rules, before it is filed. Nothing is stored.",
        {200: json(shapes.Explanation)},
        reasons=REPORT,
        body=json(Filing, _EXAMPLE),
        parameters=(Parameter("lang", "Language of the sentences.", {"enum": wording.languages(), "default": "en"}),),
    ),
    Operation(
        "GET",
        "/v1/alarms",
        "listAlarms",
        "operating",
        "What should never happen and did, until a person clears it.",
        {200: json(shapes.AlarmPage)},
        reasons=(Reason.OUT_OF_RANGE, Reason.TLP_NOT_ALLOWED),
        parameters=(*paged(), Parameter("cleared", "1: those that were cleared too.", {"enum": [0, 1], "default": 0})),
    ),
    Operation(
        "POST",
        "/v1/alarms/{id}/clear",
        "clearAlarm",
        "operating",
        "Note that a person has dealt with an alarm.",
        {200: json(shapes.AlarmView)},
        reasons=(*DOCUMENT, Reason.UNKNOWN_PATH),
        body=json(Cleared, {"by": "who is on duty"}),
        replays=True,
    ),
    *MANAGING,
    Operation(
        "GET",
        "/v1/backlog",
        "getBacklog",
        "operating",
        "What waits for the broker's word.",
        {200: json(shapes.BacklogView)},
    ),
    Operation(
        "GET",
        "/v1/directory",
        "getDirectory",
        "operating",
        "Who is in the region: how to reach them, what they can help with, which keys count; own sharing groups.",
        {200: json(managed.DirectoryView)},
    ),
    Operation(
        "GET",
        "/v1/log",
        "getLog",
        "operating",
        "The broker's log as this node, its witness, knows it.",
        {200: json(shapes.LogView)},
    ),
    Operation(
        "GET",
        "/healthz",
        "getHealth",
        "operating",
        "The process serves.",
        {200: json(shapes.Health)},
        open=True,
    ),
    Operation(
        "GET",
        "/readyz",
        "getReady",
        "operating",
        "Whether reports travel. They are accepted either way.",
        {200: json(shapes.Ready), 503: json(shapes.Ready)},
        open=True,
    ),
    Operation(
        "GET", "/metrics", "getMetrics", "operating", "For Prometheus.", {200: (Content(TEXT, _WORDS),)}, open=True
    ),
    Operation(
        "GET",
        "/openapi.json",
        "getOpenApi",
        "documentation",
        "This document.",
        {200: (Content(JSON, {"type": "object"}),)},
        open=True,
    ),
    Operation(
        "GET",
        "/docs",
        "getDocs",
        "documentation",
        "The same as a page to read.",
        {200: (Content("text/html", _WORDS),)},
        open=True,
    ),
)
