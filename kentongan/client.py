"""A client for a Kentongan node: post reports, see what became of them, read others', follow what happens.

    async with Client("http://127.0.0.1:8440", token) as node:
        outcome = await node.post({"marking": {"tlp": "GREEN"}, "rsit": [{"class": "fraud"}], "body": {"title": "…"}})
        await node.wait_for(outcome.report_id, "received")

Guarantees: a request that got no answer, or a 429, 502, 503 or 504, is sent again, not before the time that the node
asks for, and a post with the same Idempotency-Key, so that nothing is filed twice; one result a report, in order; the
feed goes on where it was however often the connection breaks, and skips nothing. Refuses to follow redirects, since
the token would go with them.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiohttp
import msgspec

from kentongan.events import Reader
from kentongan.results import (
    Event,
    Explanation,
    Never,
    Outcome,
    Own,
    OwnPage,
    Problem,
    Received,
    ReceivedPage,
    Said,
    Status,
    Unreachable,
)

__all__ = ["Client", "Event", "Never", "Outcome", "Problem", "Report", "Status", "Unreachable", "Until"]

Report = Mapping[str, Any] | msgspec.Struct | bytes
"""A filing: as JSON values, as a struct, or as the bytes of one JSON document."""
Until = Literal["accepted", "proven", "delivered", "received", "read", "acting", "closed"]
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
PROBLEM: Final = "application/problem+json"
_AGAIN: Final = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_LONGEST_WAIT: Final = 30.0
_SILENCE: Final = 45.0
"""Seconds without a sign of life after which the feed's connection is given up: a heartbeat comes every 15."""
_WORDS: Final = ("delivered", "received", "read", "acting", "closed")
_ENDED: Final = frozenset({"denied", "refused", "stopped", "expired"})
_LOST: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    media: str
    body: bytes


class Client:
    """One node, with one token. Use as an async context manager.

    Args:
        url: the node's address, such as `http://127.0.0.1:8440`.
        token: the node's operator has it.
        tls: for an authority of your own, or a client certificate.
        patience: seconds for which a request is tried before `Unreachable`, or the node's `Problem`, is raised.
        timeout: seconds for one answer.
        first_wait: seconds before the first repetition; later ones wait longer.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tls: ssl.SSLContext | None = None,
        patience: float = 120.0,
        timeout: float = 60.0,
        first_wait: float = 0.5,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a node's URL is http://… or https://…")
        if not token.isascii() or not token.isprintable():
            raise ValueError("a token is printable ASCII")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "kentongan-client"}
        self._tls = tls
        self._patience = patience
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=min(timeout, 15.0))
        self._first_wait = first_wait
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True), headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- posting

    async def post(self, report: Report, *, key: str | None = None) -> Outcome:
        """File one report. On return it is signed and on disk at the node.

        Args:
            key: an idempotency key of your own, if the process may die and post again; drawn if not given.

        Raises:
            Problem: it was refused, with reason and path. Unreachable: post it again.
        """
        answer = await self._file(_encode(report), JSON, key)
        return _outcomes(answer, [0])[0]

    async def post_many(self, reports: Iterable[Report] | AsyncIterable[Report], *, chunk: int = 500) -> list[Outcome]:
        """File any number of reports; one outcome each, in order. A refused one does not touch the others."""
        return [outcome async for outcome in self.post_stream(reports, chunk=chunk)]

    async def post_stream(
        self, reports: Iterable[Report] | AsyncIterable[Report], *, chunk: int = 500, size: int = 4 << 20
    ) -> AsyncIterator[Outcome]:
        """File reports as they come, and tell of each in order, as NDJSON in parts.

        What was told of as accepted is on disk. After an exception, post the rest again, or all of it: content that is
        there already is the same report.

        Args:
            chunk: reports a request, at most; a node takes 2,000. size: bytes a request; a node takes 8 MiB.

        Raises:
            Problem: a request as a whole was refused, for the token say. Unreachable.
        """
        part: list[tuple[int, bytes]] = []
        held, index = 0, 0
        async for report in _each(reports):
            line = _line(report)
            if part and (len(part) >= chunk or held + len(line) > size):
                for outcome in await self._file_part(part):
                    yield outcome
                part, held = [], 0
            part.append((index, line))
            held += len(line) + 1
            index += 1
        if part:
            for outcome in await self._file_part(part):
                yield outcome

    async def post_document(
        self, data: bytes, *, media: str = JSON, key: str | None = None, **query: str
    ) -> list[Outcome]:
        """File a document as it is: one report, an array, or another format, named by `format`.

        Args:
            query: what else the address takes, such as `format="misp"`.
        """
        answer = await self._file(data, media, key, query)
        return _outcomes(answer, None)

    async def _file_part(self, part: list[tuple[int, bytes]]) -> list[Outcome]:
        """One request; several, where a part is too large for what stands between. Blank lines are told of here."""
        sent = [(index, line) for index, line in part if line]
        told = [Outcome(index=index, status=400, reason="not-json", path="$") for index, line in part if not line]
        if not sent:
            return told
        try:
            answer = await self._file(b"\n".join(line for _, line in sent), NDJSON, None)
            told += _outcomes(answer, [index for index, _ in sent])
        except Problem as problem:
            if problem.status != 413:
                raise
            if len(sent) == 1:
                said = {"status": problem.status, "reason": problem.reason or "too-large", "detail": problem.detail}
                told.append(msgspec.convert({"index": sent[0][0], "path": "$", **said}, Outcome))
            else:
                half = len(sent) // 2
                told += [*await self._file_part(sent[:half]), *await self._file_part(sent[half:])]
        return sorted(told, key=lambda outcome: outcome.index)

    async def _file(self, data: bytes, media: str, key: str | None, query: Mapping[str, str] | None = None) -> _Answer:
        headers = {"Content-Type": media, "Idempotency-Key": key or str(uuid4())}
        answer = await self._call("POST", "/v1/reports", data=data, headers=headers, params=query)
        if answer.media != JSON:
            raise _problem(answer)
        return answer

    # --- reading

    async def status(self, report_id: str) -> Status:
        """What became of an own report: who has it, who does not and why, who confirmed it."""
        return await self._get(f"/v1/reports/{quote(report_id, safe='')}", Status)

    async def reports(self, *, after: int = 0, page: int = 200) -> AsyncIterator[Own]:
        """Own revisions in the order of filing, from the one after number `after` on."""
        while True:
            found = await self._get("/v1/reports", OwnPage, after=after, limit=page)
            for line in found.reports:
                yield line
            if not found.reports:
                return
            after = found.next

    async def inbox(self, *, after: int = 0, page: int = 200) -> AsyncIterator[Received]:
        """Others' reports in the order of arrival, from the one after number `after` on."""
        while True:
            found = await self._get("/v1/inbox", ReceivedPage, after=after, limit=page)
            for line in found.reports:
                yield line
            if not found.reports:
                return
            after = found.next

    async def confirm(self, report_id: str, state: str, *, revision: int | None = None) -> Said:
        """Tell a report's origin that it was `read`, is `acting` upon, or is `closed`. Twice is once."""
        word = {"state": state} | ({"revision": revision} if revision is not None else {})
        path = f"/v1/inbox/{quote(report_id, safe='')}/confirm"
        return await self._decoded("POST", path, Said, data=msgspec.json.encode(word))

    async def explain(self, report: Report, *, lang: str = "en") -> Explanation:
        """Who would get what of a report, by which rules, in sentences too. Nothing is stored."""
        params = {"lang": lang}
        return await self._decoded("POST", "/v1/policy/explain", Explanation, data=_encode(report), params=params)

    # --- following

    async def feed(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Everything that happens, for ever: from the event after `after` on, from now on without it.

        Keep the `id` of the last event that you have dealt with, and begin there after a restart: an event may come
        twice then, and none is skipped. Comes back by itself when the connection breaks.

        Raises:
            Problem: the node refuses, for the token say, or because `after` is beyond its last event.
        """
        async with aclosing(self._listen(after)) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def wait_for(
        self,
        report_id: str,
        until: Until = "received",
        *,
        members: Iterable[str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the usual name, and of more than one await
    ) -> Status:
        """Wait until a report is accepted or proven, or until its recipients have confirmed it that far.

        Args:
            members: whom to wait for; all to whom it was granted, if not given.

        Raises:
            Never: it will not happen any more. TimeoutError: it has not happened yet.
        """
        wanted = sorted(set(members)) if members is not None else None
        async with asyncio.timeout(timeout), aclosing(self._listen(None)) as events:
            names = {report_id}
            async for event in events:
                # Looked at whenever there is a connection: what happened before it has no event.
                if event is not None and not any(name in str(event.data) for name in names):
                    continue
                status = await self.status(report_id)
                if _reached(status, until, wanted):
                    return status
                names |= {revision.digest for revision in status.revisions}
        raise AssertionError("the feed ends only with an exception")

    async def _listen(self, after: int | None) -> AsyncGenerator[Event | None, None]:
        """Events, and None whenever a connection stands."""
        wait = self._first_wait
        while True:
            headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
            reader = Reader(position=after)
            asked = 0.0
            try:
                limit = aiohttp.ClientTimeout(total=None, connect=15.0, sock_read=_SILENCE)
                async with self._open("GET", "/v1/feed", headers=headers, timeout=limit) as response:
                    if response.status != 200:
                        problem = _problem(await _read(response), response.headers.get("Retry-After"))
                        if response.status not in _AGAIN:
                            raise problem
                        asked = problem.retry_after or 0.0
                    else:
                        yield None
                        async for chunk in response.content.iter_any():
                            for event in reader.take(chunk):
                                yield event
                                # Only now: what the caller did not take is sent again.
                                after = event.id
                            after = reader.position
                            wait = self._first_wait
            except aiohttp.ClientConnectorCertificateError as exc:
                raise Unreachable(f"{self.url}: its certificate is not trusted") from exc
            except msgspec.DecodeError as exc:
                raise Problem(200, detail=f"the feed is none that this client knows: {exc}") from exc
            except _LOST:
                pass
            pause = max(asked, reader.wait or 0.0, wait * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load
            await asyncio.sleep(pause)
            wait = min(wait * 2, _LONGEST_WAIT)

    # --- one request

    def _open(self, method: str, path: str, **options: Any) -> Any:
        if self._session is None:
            raise RuntimeError("use the client in `async with`")
        return self._session.request(method, self.url + path, allow_redirects=False, **options)

    async def _call(self, method: str, path: str, **options: Any) -> _Answer:
        """Send until there is an answer that counts."""
        clock = asyncio.get_running_loop()
        deadline, wait = clock.time() + self._patience, self._first_wait
        while True:
            fault: Exception
            asked = 0.0
            try:
                async with self._open(method, path, timeout=self._timeout, **options) as response:
                    answer = await _read(response)
                    if answer.status not in _AGAIN:
                        return answer
                    fault = problem = _problem(answer, response.headers.get("Retry-After"))
                    asked = problem.retry_after or 0.0
            except aiohttp.ClientConnectorCertificateError as exc:
                raise Unreachable(f"{self.url}: its certificate is not trusted") from exc
            except _LOST as exc:
                fault = Unreachable(f"{self.url} does not answer: {type(exc).__name__}")
                fault.__cause__ = exc
            pause = max(asked, wait * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, is no secret
            if clock.time() + pause > deadline:
                raise fault
            await asyncio.sleep(pause)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _get(self, path: str, kind: type[_T], **query: int) -> _T:
        return await self._decoded("GET", path, kind, params={name: str(value) for name, value in query.items()})

    async def _decoded(self, method: str, path: str, kind: type[_T], **options: Any) -> _T:
        headers = {"Content-Type": JSON} if "data" in options else {}
        answer = await self._call(method, path, headers=headers, **options)
        if answer.status != 200:
            raise _problem(answer)
        return _decode(answer, kind)


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    return _Answer(response.status, response.content_type, await response.read())


def _decode(answer: _Answer, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as exc:
        raise Problem(answer.status, detail=f"what answered is no node that this client knows: {exc}") from exc


def _problem(answer: _Answer, retry_after: str | None = None) -> Problem:
    try:
        said = msgspec.json.decode(answer.body, type=dict[str, Any]) if answer.media == PROBLEM else {}
    except msgspec.DecodeError:
        said = {}
    reason, path, detail = (str(said.get(name, default)) for name, default in _SAID.items())
    if not said:
        detail = "the answer is not a node's: check the URL, and what stands between"
    return Problem(answer.status, reason, path, detail, _seconds(retry_after))


_SAID: Final = {"reason": "", "path": "$", "detail": ""}


def _seconds(text: str | None) -> float | None:
    """`Retry-After`: seconds, or a date."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


# --- filing -----------------------------------------------------------------------------------------------------


class _Filed(msgspec.Struct, frozen=True):
    """The answer to one report; `status` is an address here, and a number in a list."""

    state: str
    status: str
    report_id: str = ""
    incident_id: str = ""
    revision: int = 0
    digest: str = ""
    review: int = 0


class _Many(msgspec.Struct, frozen=True):
    results: list[Outcome]


def _outcomes(answer: _Answer, indices: list[int] | None) -> list[Outcome]:
    """One outcome for each index, or for each that there is."""
    if b'"results"' in answer.body:
        many = _decode(answer, _Many).results
        found = [msgspec.structs.replace(one, path=_within(one.path, one.index)) for one in many]
    else:
        one = _decode(answer, _Filed)
        fields = {name: getattr(one, name) for name in one.__struct_fields__ if name != "status"}
        found = [Outcome(status=answer.status, location=one.status, **fields)]
    if indices is None:
        return found
    if len(found) != len(indices):
        raise Problem(answer.status, detail=f"{len(indices)} reports were sent and {len(found)} answered")
    return [msgspec.structs.replace(one, index=index) for index, one in zip(indices, found, strict=True)]


def _within(path: str, index: int) -> str:
    start = f"$[{index}]"
    return "$" + path[len(start) :] if path.startswith(start) else path


def _encode(report: Report) -> bytes:
    return bytes(report) if isinstance(report, bytes) else msgspec.json.encode(report)


def _line(report: Report) -> bytes:
    """One line of NDJSON; empty for bytes that are none."""
    data = _encode(report).strip()
    if b"\n" not in data:
        return data
    try:
        return msgspec.json.format(data, indent=-1)
    except msgspec.DecodeError:
        return b""


async def _each(reports: Iterable[Report] | AsyncIterable[Report]) -> AsyncIterator[Report]:
    if isinstance(reports, AsyncIterable):
        async for report in reports:
            yield report
    else:
        for report in reports:
            yield report


# --- waiting ----------------------------------------------------------------------------------------------------


def _reached(status: Status, until: Until, members: list[str] | None) -> bool:
    """Whether it has come that far; `Never` if it will not. Looks at the newest revision."""
    newest = status.newest
    if newest.state in ("kept", "rejected", "duplicate"):
        why = f": {newest.refusal.reason}" if newest.refusal else ""
        raise Never(f"report {status.report_id} is {newest.state}{why}", status)
    if newest.state != "accepted":
        return False
    if until == "accepted":
        return True
    if until == "proven":
        if newest.proof is not None and newest.proof.state == "missing":
            raise Never("the broker's log does not hold what the broker signed", status)
        return newest.proof is not None and newest.proof.state == "proven"
    granted = {name for name, one in newest.recipients.items() if one.granted or one.state in _WORDS}
    waited_for = set(members) if members is not None else granted
    if not waited_for:
        raise Never("nobody is to get this report", status)
    states = {name: newest.recipients[name].state if name in newest.recipients else "denied" for name in waited_for}
    lost = sorted(name for name, state in states.items() if state in _ENDED)
    if lost:
        raise Never(f"not any more: {', '.join(f'{name} {states[name]}' for name in lost)}", status)
    return all(state in _WORDS[_WORDS.index(until) :] for state in states.values())
