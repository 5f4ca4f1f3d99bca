"""Coarse values: what they keep, what they drop, and that they never say more than the exact ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from protocol import taxonomy as tx
from protocol.coarse import band, coarse_body, coarse_elements, contact, counts, geo, indicator, times, victim
from protocol.report import (
    Body,
    Contact,
    Geo,
    GeoCoarse,
    Indicator,
    TimePoint,
    Times,
    Victim,
    VictimCoarse,
    refang,
)
from tests.protocol.make import bodies, quick, structs


@pytest.mark.parametrize(
    ("kind", "value", "wide"),
    [
        ("ipv4-addr", "203.0.113.77", "203.0.113.0/24"),
        ("ipv4-addr", "203[.]0[.]113[.]77", "203.0.113.0/24"),
        ("ipv4-net", "203.0.113.64/26", "203.0.0.0/16"),
        ("ipv4-net", "203.0.113.77/24", "203.0.0.0/16"),
        ("ipv4-net", "10.0.0.0/8", "10.0.0.0/8"),
        ("ipv6-addr", "2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("ipv6-addr", "::ffff:203.0.113.77", "::/48"),
        ("ipv6-net", "2001:db8:1:2::/64", "2001:db8::/32"),
    ],
)
def test_addresses_become_networks(kind: Any, value: str, wide: str) -> None:
    """An address becomes its /24 or /48, a network its /16 or /32; context and times stay behind."""
    exact = Indicator(type=kind, value=value, context="mail server", first_seen=datetime(2026, 1, 1, tzinfo=UTC))
    net: Any = "ipv4-net" if kind.startswith("ipv4") else "ipv6-net"
    assert indicator(exact) == Indicator(type=net, value=wide, level="coarse")


ADDRESSES = ("ipv4-addr", "ipv6-addr", "ipv4-net", "ipv6-net")


@pytest.mark.parametrize("kind", sorted(set(get_args(tx.IndicatorType)) - set(ADDRESSES)))
def test_other_indicators_have_no_coarse_value(kind: Any) -> None:
    """Only addresses and networks have a coarser value."""
    value = "a" * {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "x509-sha256": 64}.get(kind, 8)
    assert indicator(Indicator(type=kind, value=value)) is None


@pytest.mark.parametrize(
    ("count", "name"),
    [
        (0, "0"),
        (1, "1-9"),
        (9, "1-9"),
        (10, "10-99"),
        (99, "10-99"),
        (100, "100-999"),
        (999, "100-999"),
        (1_000, "1000-9999"),
        (9_999, "1000-9999"),
        (10_000, "10000-99999"),
        (99_999, "10000-99999"),
        (100_000, "100000+"),
        (10**12, "100000+"),
    ],
)
def test_counts_become_bands(count: int, name: str) -> None:
    """A count becomes its power of ten; the edges belong where they are written."""
    assert band(count) == name
    assert counts({"people": count}) == {"people": name}


@quick(100)
@given(st.integers(0, 10**12))
def test_a_band_holds_its_count(count: int) -> None:
    """The exact count lies within the band."""
    low, _, high = band(count).partition("-")
    assert int(low.rstrip("+")) <= count <= int(high or (10**12 if low.endswith("+") else low))


@pytest.mark.parametrize("fidelity", get_args(tx.Fidelity))
def test_times_become_days(fidelity: Any) -> None:
    """The time of day is gone whatever the stated fidelity; the fidelity never becomes finer."""
    exact = TimePoint(value=datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC), fidelity=fidelity)
    found = times(Times(detected=exact))
    kept = fidelity if fidelity in ("year", "month") else "day"
    assert found == Times(detected=TimePoint(value=datetime(2026, 2, 3, tzinfo=UTC), fidelity=kept))


def test_all_times_become_days() -> None:
    """No time of an incident is forgotten, and the day is that of the zone in which it was filed."""
    zone = timezone(timedelta(hours=7))
    exact = TimePoint(value=datetime(2026, 2, 3, 1, 2, 3, tzinfo=zone))
    day = TimePoint(value=datetime(2026, 2, 3, tzinfo=zone), fidelity="day")
    names = Times.__struct_fields__
    assert times(Times(**dict.fromkeys(names, exact))) == Times(**dict.fromkeys(names, day))


def test_a_victim_becomes_its_sector() -> None:
    """Name and site are dropped; without a sector nothing but the existence of a victim is said."""
    assert victim(Victim(name="Bank", sector="finance.banking", website="bank.example")) == VictimCoarse(
        sector="finance.banking"
    )
    assert victim(Victim(name="Bank")) == VictimCoarse()


def test_a_place_becomes_its_country() -> None:
    """City, region and coordinates are dropped."""
    assert geo(Geo(country="id", region="Bali", city="Denpasar", latitude=-8.65, longitude=115.2)) == GeoCoarse(
        country="id"
    )


def test_a_contact_becomes_its_role() -> None:
    """Whom to ask for stays; who that is does not."""
    exact = Contact(role="duty officer", name="Sari", email="sari@cert.example", phone="1", hours="day and night")
    assert contact(exact) == Contact(role="duty officer", level="coarse")


def test_the_same_coarse_element_is_listed_once() -> None:
    """Two addresses of one network give one coarse value: their number stays unsaid."""
    body = Body(
        indicators=[Indicator(type="ipv4-addr", value=f"203.0.113.{n}") for n in (1, 2)]
        + [Indicator(type="domain-name", value="evil.example")],
        contacts=[Contact(role="duty officer", name=name) for name in ("Sari", "Budi")],
    )
    assert coarse_elements(body) == {
        "indicators": [Indicator(type="ipv4-net", value="203.0.113.0/24", level="coarse")],
        "contacts": [Contact(role="duty officer", level="coarse")],
    }


def test_an_empty_body_has_no_coarse_values() -> None:
    """Nothing is said where nothing was filed."""
    assert msgspec.to_builtins(coarse_body(Body())) == {}
    assert coarse_elements(Body()) == {}


@quick(150)
@given(bodies(8))
def test_coarse_never_says_more(body: Body) -> None:
    """Every coarse value follows from the exact one alone, and is wider, never narrower."""
    wide = coarse_body(body)
    assert (wide.times_coarse is UNSET) == (body.times is UNSET)
    if body.times is not UNSET and wide.times_coarse is not UNSET:
        for name in Times.__struct_fields__:
            exact: TimePoint | UnsetType = getattr(body.times, name)
            day: TimePoint | UnsetType = getattr(wide.times_coarse, name)
            assert (exact is UNSET) == (day is UNSET)
            if exact is not UNSET and day is not UNSET:
                assert (day.value.date(), day.value.time().isoformat()) == (exact.value.date(), "00:00:00")
                assert day.fidelity in (exact.fidelity, "day")
    if body.victim is not UNSET:
        assert wide.victim_coarse == VictimCoarse(sector=body.victim.sector)
    if body.geo is not UNSET:
        assert wide.geo_coarse == GeoCoarse(country=body.geo.country)
    elements = coarse_elements(body)
    networks = [ip_network(refang(i.value), strict=False) for i in body.indicators or () if i.type in ADDRESSES]
    for found in elements.get("indicators", []):
        assert isinstance(found, Indicator)
        assert set(msgspec.to_builtins(found)) == {"type", "value", "level"}
        network = ip_network(found.value)
        assert network.prefixlen <= {4: 24, 6: 48}[network.version]
        assert any(network.version == n.version and n.subnet_of(network) for n in networks)  # type: ignore[arg-type]
    for person in elements.get("contacts", []):
        assert set(msgspec.to_builtins(person)) == {"role", "level"}


@quick(60)
@given(structs(Body), st.data())
def test_coarse_is_a_function(body: Body, data: st.DataObject) -> None:
    """The same body gives the same coarse values, whatever else is in it."""
    other = msgspec.structs.replace(body, status=data.draw(st.sampled_from(["open", "contained"])))
    assert coarse_body(other) == coarse_body(body)
    assert coarse_elements(other) == coarse_elements(body)
