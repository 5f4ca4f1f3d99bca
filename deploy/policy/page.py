"""The matrix as one HTML file: no scripts, nothing loaded from elsewhere, readable without colours and on paper.

Guarantees: everything that a policy's author wrote is escaped, and control characters are taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from deploy.policy.matrix import Decider, Divergence, Flow, Matrix, Pair
from deploy.policy.probes import TLP
from protocol.wording import Catalogue, plain

WORDS: Final[dict[Flow, str]] = {
    "all": "everything",
    "some": "part",
    "coarse": "coarse values only",
    "heading": "heading only",
    "none": "nothing",
}
MARKS: Final[dict[Flow, str]] = {"all": "●", "some": "◐", "coarse": "◌", "heading": "·", "none": "○"}

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border: 1px solid #888; padding: .35rem .6rem; text-align: left; vertical-align: top; }
thead th { position: sticky; top: 0; background: Canvas; }
.wide { overflow-x: auto; }
.none { background: #d559; } .heading, .coarse { background: #fb75; } .some { background: #fd84; }
.all { background: #6b65; } .own { background: #8883; text-align: center; }
td ul { list-style: none; margin: 0; padding: 0; white-space: nowrap; }
:target { outline: 3px solid Highlight; }
@media print { thead th { position: static; } }
"""


def _text(value: str) -> str:
    return escape(plain(value), quote=True)


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _anchor(pair: Pair) -> str:
    return _text(f"{pair.origin}-to-{pair.recipient}")


def _cell(pair: Pair | None) -> str:
    if pair is None:
        return "<td>no recipient</td>"
    lines = "".join(
        f'<li class="{flow.flow}"><span aria-hidden="true">{MARKS[flow.flow]}</span> {flow.tlp}: '
        f"{WORDS[flow.flow]}{_amount(flow.exact, flow.coarse) if flow.flow in ('some', 'coarse') else ''}</li>"
        for flow in pair.flows
    )
    count = len([item for item in pair.divergences if item.kind == "sent-but-not-taken"])
    note = f"<br>{count} refused by the recipient" if count else ""
    where = f"{_text(pair.origin)} to {_text(pair.recipient)}"
    return f'<td><ul>{lines}</ul><a href="#{_anchor(pair)}" aria-label="rules, {where}">rules</a>{note}</td>'


def _amount(exact: float, coarse: float) -> str:
    return f" ({_percent(exact)} exact, {_percent(coarse)} coarse)"


def _overview(found: Matrix, words: Catalogue) -> Iterator[str]:
    yield '<div class="wide"><table><caption>From the jurisdiction of the row to that of the column</caption>'
    yield '<thead><tr><th scope="col">from \\ to</th>'
    for name in found.jurisdictions:
        yield f'<th scope="col">{_text(words.jurisdiction(name))}</th>'
    yield "</tr></thead><tbody>"
    for origin in found.jurisdictions:
        yield f'<tr><th scope="row">{_text(words.jurisdiction(origin))}</th>'
        for name in found.jurisdictions:
            yield '<td class="own">own reports</td>' if name == origin else _cell(found.pair(origin, name))
        yield "</tr>"
    yield "</tbody></table></div>"


def _classes(pair: Pair, words: Catalogue) -> Iterator[str]:
    yield "<table><caption>What flows, by kind of data and TLP level</caption><thead><tr><th scope='col'>data</th>"
    for tlp in TLP:
        yield f"<th scope='col'>{tlp}</th>"
    yield "</tr></thead><tbody>"
    for row in range(len(pair.flows[0].classes)):
        name = pair.flows[0].classes[row].name
        yield f"<tr><th scope='row'>{_text(words.classes[name])}</th>"
        for flow in pair.flows:
            item = flow.classes[row]
            amount = _amount(item.exact, item.coarse) if item.flow == "some" else ""
            yield f'<td class="{item.flow}">{MARKS[item.flow]} {WORDS[item.flow]}{amount}</td>'
        yield "</tr>"
    yield "</tbody></table>"


def _rule(item: Decider | Divergence) -> str:
    if item.rule:
        said = f": “{_text(item.because)}”" if item.because else ""
        return f"rule <code>{_text(item.rule)}</code>{said}"
    return f"no rule (<code>{_text(item.reason)}</code>)"


def _rows(pair: Pair, words: Catalogue) -> Iterator[str]:
    yield "<table><caption>Which rules withhold something</caption><thead><tr><th scope='col'>document</th>"
    yield "<th scope='col'>rule and its reason</th><th scope='col'>withholds, or makes coarse</th>"
    yield "<th scope='col'>of the reports tried</th></tr></thead><tbody>"
    for item in pair.deciders:
        units = ", ".join(_text(words.units[unit]) for unit in item.units)
        yield f"<tr><td>{_text(words.document(item.gate, item.document))}</td><td>{_rule(item)}</td>"
        yield f"<td>{units}</td><td>{_percent(item.share)}</td></tr>"
    yield "</tbody></table>"


def _divergences(pair: Pair, words: Catalogue) -> Iterator[str]:
    if not pair.divergences:
        yield "<p>The two policies agree.</p>"
        return
    yield "<table><caption>Where the two policies disagree</caption><thead><tr><th scope='col'>disagreement</th>"
    yield "<th scope='col'>decided by</th><th scope='col'>about</th></tr></thead><tbody>"
    for item in pair.divergences:
        refused = item.kind == "sent-but-not-taken"
        kind = "would be sent, may not be taken in" if refused else "would be taken in, is not sent"
        units = ", ".join(_text(words.units[unit]) for unit in item.units)
        yield f"<tr><td>{kind}</td><td>{_text(item.document)}, {_rule(item)}</td><td>{units}</td></tr>"
    yield "</tbody></table>"


def page(found: Matrix, words: Catalogue) -> str:
    """The whole page."""
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>What flows between jurisdictions</title><style>{_STYLE}</style></head><body><main>"
    )
    about = (
        f"<p>By the sharing policies in force at {_text(found.at.isoformat())}. Shares are shares of made-up reports "
        "that tell the rules of a pair apart, not of real traffic. A TLP:RED report is taken to name the recipient.</p>"
    )
    legend = " ".join(f"<span>{MARKS[flow]} {WORDS[flow]}.</span>" for flow in MARKS)
    parts = [
        head,
        "<h1>What flows between jurisdictions</h1>",
        about,
        f"<p>{legend}</p>",
        *_overview(found, words),
        "<h2>Pair by pair</h2>",
    ]
    for pair in found.pairs:
        title = f"{_text(words.jurisdiction(pair.origin))} to {_text(words.jurisdiction(pair.recipient))}"
        parts += [f'<section id="{_anchor(pair)}"><h3>{title}</h3>']
        parts += [*_classes(pair, words), *_rows(pair, words), *_divergences(pair, words), "</section>"]
    parts.append("</main></body></html>\n")
    return "".join(parts)
