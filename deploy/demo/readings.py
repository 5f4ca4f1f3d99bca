"""Our reading of the published incidents: what a person had to take from the text of their sources.

Guarantees: names, clock times and cities stand in the facts (`incidents.json`), titles name no victim, and what no
source says has no entry. Keys are incidents' ids, or the facts' own words.
Refuses nothing: `incidents.py` looks up what it needs, and fails on an incident without a reading.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from protocol import taxonomy as tx


class Reading(Struct, frozen=True):
    """What takes a person to read: a title, the names that give the victim away, whether a service suffered."""

    title: str
    names: tuple[str, ...] = ()
    disrupted: bool = False


_FAULTY: Final = "after a faulty security software update"

READINGS: Final[dict[str, Reading]] = {
    "id-pdns-brain-cipher-2024": Reading(
        "Ransomware at a government data centre",
        ("PDNS", "Temporary National Data Centre", "Surabaya", "Ministry of Communication"),
        True,
    ),
    "id-bsi-lockbit-2023": Reading("Ransomware at a large bank, with days of outage", ("BSI", "Bank Syariah"), True),
    "id-wannacry-2017": Reading("Ransomware worm at a hospital", ("Dharmais",), True),
    "jp-wannacry-2017": Reading("Ransomware worm at manufacturers and other sites", ("Hitachi", "Nissan"), True),
    "sg-wannacry-2017": Reading(
        "Ransomware worm on digital signage", ("MediaOnline", "Tiong Bahru", "White Sands"), True
    ),
    "th-wannacry-2017": Reading("Ransomware worm on some 200 computers"),
    "vn-wannacry-2017": Reading("Ransomware worm on a provincial server and other computers", ("Thai Nguyen",)),
    "my-wannacry-2017": Reading("Ransomware worm at an academic institution"),
    "sg-crowdstrike-outage-2024": Reading(f"Airport check-in outage {_FAULTY}", ("Changi", "AirAsia", "Scoot"), True),
    "my-crowdstrike-outage-2024": Reading(
        f"Airline and railway ticketing outage {_FAULTY}", ("AirAsia", "KTM", "KLIA"), True
    ),
    "ph-crowdstrike-outage-2024": Reading(f"Flight cancellations {_FAULTY}", ("Cebu Pacific", "AirAsia"), True),
    "jp-crowdstrike-outage-2024": Reading(
        f"Airline, railway and retail outage {_FAULTY}",
        ("Jetstar", "Japan Airlines", "JR West", "McDonald's", "Universal Studios"),
        True,
    ),
    "th-crowdstrike-outage-2024": Reading(
        f"Airport check-in outage {_FAULTY}", ("Airports of Thailand", "Don Mueang"), True
    ),
    "id-crowdstrike-outage-2024": Reading(f"Airline check-in outage {_FAULTY}", ("AirAsia",), True),
    "kh-crowdstrike-outage-2024": Reading(f"Airline check-in outage {_FAULTY}", ("AirAsia",), True),
    "my-prudential-moveit-2023": Reading(
        "Customer data taken from insurers through a file-transfer flaw", ("Prudential",)
    ),
    "sg-sita-krisflyer-2021": Reading(
        "Frequent-flyer data exposed at an airline IT supplier", ("Singapore Airlines", "KrisFlyer", "PPS", "SITA")
    ),
    "jp-sita-ana-jal-2021": Reading(
        "Mileage members' data exposed at an airline IT supplier",
        ("All Nippon", "ANA", "Japan Airlines", "JAL", "SITA"),
    ),
    "my-sita-malaysia-airlines-2021": Reading(
        "Passenger data touched by a breach at an airline IT supplier", ("Malaysia Airlines", "SITA")
    ),
    "ph-rcbc-swift-2016": Reading(
        "Stolen interbank transfers laundered through bank accounts",
        ("Rizal", "RCBC", "Jupiter Street", "Bangladesh Bank"),
    ),
    "vn-tpbank-swift-2015": Reading("Forged interbank payment order stopped by a bank", ("Tien Phong", "TPBank")),
    "sg-bec-timor-leste-2024": Reading("Business e-mail fraud against a commodity firm"),
    "tl-bec-singapore-2024": Reading("Proceeds of a business e-mail fraud frozen in a bank account"),
    "mm-luminousmoth-2021": Reading("Espionage against some 100 targets, government bodies among them"),
    "ph-luminousmoth-2021": Reading("Espionage against some 1,400 targets, government bodies among them"),
    "jp-jal-ddos-2024": Reading("Denial of service against an airline's network", ("Japan Airlines", "JAL"), True),
    "jp-banks-ddos-2024": Reading("Denial of service against online banking", ("MUFG", "Mizuho", "Resona"), True),
    "jp-docomo-ddos-2025": Reading(
        "Denial of service against a mobile operator's web services",
        ("NTT", "Docomo", "goo", "Lemino", "d-payment"),
        True,
    ),
    "jp-nagoya-port-lockbit-2023": Reading("Ransomware at a container port", ("Nagoya", "Toyota"), True),
    "jp-kadokawa-blacksuit-2024": Reading(
        "Ransomware at a publishing and video company", ("KADOKAWA", "Dwango", "Niconico"), True
    ),
    "jp-asahi-qilin-2025": Reading("Ransomware at a beverage manufacturer", ("Asahi",), True),
    "jp-kddi-outage-2022": Reading("Mobile network outage after a maintenance error", ("KDDI",), True),
    "my-mahb-2025": Reading(
        "Attack with a ransom demand at an airport operator",
        ("Malaysia Airports", "MAHB", "Kuala Lumpur International", "KLIA"),
        True,
    ),
    "my-prasarana-ransomhub-2024": Reading(
        "Data theft claimed at a public transport operator", ("Prasarana", "LRT", "MRT", "RapidKL")
    ),
    "ph-philhealth-medusa-2023": Reading(
        "Ransomware at a public health insurer", ("PhilHealth", "Philippine Health Insurance"), True
    ),
    "ph-media-ddos-2021": Reading("Denial of service against news sites", ("ABS-CBN", "Rappler", "Vera Files"), True),
    "sg-singhealth-2018": Reading(
        "Patient data copied from a public healthcare group", ("SingHealth", "Singapore Health Services", "IHiS")
    ),
    "sg-unc3886-telcos-2025": Reading("Espionage in mobile operators' networks", ("Singtel", "StarHub", "M1", "SIMBA")),
    "sg-synapxe-ddos-2023": Reading("Denial of service against a public healthcare network", ("Synapxe",), True),
    "sg-ocbc-phishing-2021": Reading("Text-message phishing of bank customers", ("OCBC",)),
    "th-9near-2023": Reading("Threat to publish citizens' personal data", ("Mor Prom", "Ministry of Public Health")),
    "th-pea-2020": Reading("Ransomware at an electricity distributor", ("PEA", "Provincial Electricity"), True),
    "vn-vndirect-2024": Reading("Ransomware at a securities broker", ("VNDIRECT",), True),
    "vn-pvoil-2024": Reading("Ransomware at a fuel retailer", ("PVOIL", "PetroVietnam"), True),
    "vn-cic-2025": Reading("Intrusion into a credit bureau", ("CIC", "Credit Information Center", "State Bank")),
    "vn-airports-2016": Reading(
        "Screens taken over and data leaked in air transport", ("Noi Bai", "Tan Son Nhat", "Vietnam Airlines"), True
    ),
    "kh-nec-tempperiscope-2018": Reading(
        "Espionage against election and government bodies", ("National Election Committee", "Senate", "ministries")
    ),
    "bn-brunei-post-phishing-2021": Reading(
        "Text-message phishing in the name of a postal service", ("Brunei Post", "Brunei Postal")
    ),
}

SECTORS: Final[dict[str, tx.Sector]] = {
    "government": "government",
    "finance": "finance.banking",
    "health": "health",
    "manufacturing": "manufacturing",
    "retail": "trade",
    "trade": "trade",
    "multiple": "other",
    "education": "education",
    "aviation": "transport.air",
    "rail": "transport.rail",
    "maritime": "transport.maritime",
    "land-transport": "transport.land",
    "postal": "logistics",
    "media": "media",
    "telecom": "ict.telecom",
    "energy": "energy",
}

# Where the victim is not what its sector's usual code says: airports, a port, an insurer, a broker, a credit bureau.
SECTORS_OF: Final[dict[str, tuple[tx.Sector, ...]]] = {
    "sg-crowdstrike-outage-2024": ("transport.airport", "transport.air"),
    "th-crowdstrike-outage-2024": ("transport.airport",),
    "my-mahb-2025": ("transport.airport",),
    "vn-airports-2016": ("transport.airport", "transport.air"),
    "jp-nagoya-port-lockbit-2023": ("transport.port",),
    "my-prudential-moveit-2023": ("finance",),
    "vn-vndirect-2024": ("finance",),
    "vn-cic-2025": ("finance",),
    "th-pea-2020": ("energy.electricity",),
    "vn-pvoil-2024": ("energy.oil",),
}

CITIES: Final = {
    "id-pdns-brain-cipher-2024": "Surabaya",
    "id-wannacry-2017": "Jakarta",
    "jp-nagoya-port-lockbit-2023": "Nagoya",
    "ph-rcbc-swift-2016": "Manila",
    "th-wannacry-2017": "Bangkok",
}

# Clock times stand in the text of the facts, in local time; the facts' date fields only hold days.
CLOCK: Final[dict[str, dict[str, tuple[str, tx.Fidelity]]]] = {
    "id-pdns-brain-cipher-2024": {"occurred": ("2024-06-20T00:54:00+07:00", "hour")},  # published as "about"
    "id-crowdstrike-outage-2024": {"recovered": ("2024-07-20T14:00:00+08:00", "hour")},
    "sg-crowdstrike-outage-2024": {"recovered": ("2024-07-20T19:00:00+08:00", "hour")},
    "jp-jal-ddos-2024": {
        "occurred": ("2024-12-26T07:24:00+09:00", "minute"),
        "contained": ("2024-12-26T08:56:00+09:00", "minute"),
    },
    "jp-docomo-ddos-2025": {
        "occurred": ("2025-01-02T05:27:00+09:00", "minute"),
        "ended": ("2025-01-02T16:10:00+09:00", "minute"),
    },
    "sg-synapxe-ddos-2023": {
        "occurred": ("2023-11-01T09:20:00+08:00", "minute"),
        "recovered": ("2023-11-01T16:30:00+08:00", "minute"),
    },
    "vn-vndirect-2024": {"detected": ("2024-03-24T10:00:00+07:00", "hour")},
    "vn-pvoil-2024": {"occurred": ("2024-04-02T00:00:00+07:00", "hour")},
}

# Physical processes that stopped or slowed. No source says anything about safety, so none is claimed either way.
PROCESSES: Final = {
    "jp-nagoya-port-lockbit-2023": "Loading and unloading of containers by trailer suspended",
    "jp-asahi-qilin-2025": "Production stopped at six breweries; ordering and shipping halted",
    "jp-jal-ddos-2024": "Baggage systems disrupted and flights delayed",
    "my-mahb-2025": "Flight displays, check-in counters and baggage reported down; disputed by the operator",
    "vn-airports-2016": "Flight screens and loudspeakers taken over; passengers checked in by hand",
}

# A supplier that the facts name as the way in or the cause; the mark is looked for in victim and summary.
SUPPLIERS: Final = (("CrowdStrike", "security software supplier"), ("SITA", "airline IT supplier"))

SITES: Final = {"jp-nagoya-port-lockbit-2023": 5, "vn-pvoil-2024": 760}  # terminals, filling stations
STOLEN: Final = frozenset({"jp-kadokawa-blacksuit-2024", "ph-philhealth-medusa-2023"})  # stated, not only claimed
CLAIMED: Final = frozenset({"id-bsi-lockbit-2023", "th-9near-2023", "vn-cic-2025"})  # counts are the actor's own
NOT_PAID: Final = frozenset({"jp-asahi-qilin-2025", "th-wannacry-2017"})  # said in the text, not in `paid`
REQUEST_FLOODS: Final = frozenset({"ph-media-ddos-2021"})  # measured in requests: the endpoint, not the network
DETERMINATIONS: Final[dict[str, tx.Determination]] = {
    "vn-tpbank-swift-2015": "failed-attempt",
    "id-bsi-lockbit-2023": "suspected",
    "th-9near-2023": "suspected",
}
PRODUCTS: Final = {"CVE-2023-34362": "MOVEit Transfer"}

# How an attribution begins decides how far it is believed; whatever is not listed is "moderate".
ATTRIBUTIONS: Final[tuple[tuple[str, tx.Confidence], ...]] = (
    ("Claimed by the actor", "low"),
    ("Messages named", "low"),
    ("Named by", "high"),
    ("Group named by", "high"),
    ("US Department of Justice charged", "high"),
    ("Campaign claimed by Cl0p and attributed by", "high"),
)
