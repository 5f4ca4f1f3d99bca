"""Documents in the formats, each with something in every place that its reader knows; after the specifications' own."""

from __future__ import annotations

from typing import Any

IDEA: dict[str, Any] = {
    "Format": "IDEA0",
    "ID": "4390fc3f-c753-4a3e-bc83-1b44f24baf75",
    "TLP": "AMBER",
    "CreateTime": "2012-11-03T10:00:02Z",
    "DetectTime": "2012-11-03T10:00:07Z",
    "WinStartTime": "2012-11-03T05:00:00Z",
    "WinEndTime": "2012-11-03T10:00:00Z",
    "EventTime": "2012-11-03T07:36:00Z",
    "CeaseTime": "2012-11-03T09:55:22Z",
    "Category": ["Fraud.Phishing"],
    "Ref": ["cve:CVE-1234-5678"],
    "Confidence": 1.0,
    "Description": "Synthetic example",
    "Note": "Synthetic example note",
    "ConnCount": 20,
    "AltNames": ["ticket-7"],
    "CorrelID": ["correl-1"],
    "AggrID": ["aggr-1"],
    "PredID": ["pred-1"],
    "RelID": ["rel-1"],
    "Source": [
        {
            "Type": ["Phishing"],
            "IP4": ["198.51.100.2-198.51.100.5", "203.0.113.0/25", "192.168.7.7"],
            "IP6": ["2001:db8:0:0:0:ff00:42:0/112"],
            "Hostname": ["bad.example.com"],
            "URL": ["http://example.com/cgi-bin/killemall"],
            "Email": ["sender@bad.example"],
            "ASN": [64500],
            "MAC": ["01:23:45:67:89:ab"],
            "Proto": ["tcp", "http"],
            "Port": [8080],
            "AttachHand": ["att1"],
            "Netname": ["ripe:IANA-CBLK-RESERVED1"],
        },
        {"IP4": ["198.51.100.99"], "Spoofed": True},
    ],
    "Target": [
        {"Type": ["Backscatter", "OriginSpam"], "Email": ["innocent@example.com"], "Spoofed": True},
        {"Type": ["CasualIP"], "IP4": ["198.51.100.200"], "Port": [22, 25, 443], "Anonymised": True},
    ],
    "Attach": [
        {
            "Handle": "att1",
            "FileName": ["killemall"],
            "Type": ["Malware"],
            "ContentType": "application/octet-stream",
            "Hash": ["sha1:" + "0c" * 20],
            "Size": 46,
            "Content": "TVpqdXN0a2lkZGluZwo=",
        },
        {"Handle": "log", "FileName": ["victim.log"], "Hash": ["md5:" + "1c" * 16]},
    ],
    "Node": [{"Name": "org.example.kippo_honey", "Type": ["Protocol", "Honeypot"], "SW": ["Kippo"]}],
}

IDMEF: dict[str, Any] = {
    "Version": "2.D.V08",
    "ID": "819df7bc-35ef-40d8-bbee-1901117370b2",
    "OrganisationName": "ACME",
    "EntityName": "India",
    "EntitySector": ["Energy.Electricity"],
    "Type": ["Cyber"],
    "Category": ["Malware.Ransomware"],
    "Cause": "Malicious",
    "Description": "Potential bruteforce attack on root user account",
    "Note": "A longer story.",
    "Status": ["Incident", "Open"],
    "Priority": "Medium",
    "Confidence": 0.8,
    "CreateTime": "2021-05-10T16:55:29.196408+00:00",
    "StartTime": "2021-05-10T16:55:29+00:00",
    "EndTime": "2021-05-10T17:55:29+00:00",
    "ReportTime": "2021-05-11T17:55:29+00:00",
    "AltNames": ["ticket-7"],
    "Ref": ["https://advisory.example/1"],
    "CorrelID": ["819df7bc-35ef-40d8-bbee-1901117370b1"],
    "PredID": ["819df7bc-35ef-40d8-bbee-1901117370b0"],
    "RelID": ["819df7bc-35ef-40d8-bbee-1901117370b9"],
    "Analyzer": {
        "Name": "SIEM",
        "Hostname": "siem.acme.com",
        "Model": "Concerto SIEM 5.2",
        "Category": ["SIEM.SIEM"],
        "Method": ["Signature"],
        "IP": "192.0.2.1",
    },
    "Sensor": [{"IP": "192.0.2.5", "Name": "syslog", "Location": "Server room A1, rack 10"}],
    "Source": [
        {"IP": "203.0.113.9", "Hostname": "bad.example", "Email": "bad@bad.example", "User": "eve", "Note": "APT 4869"}
    ],
    "Target": [
        {
            "IP": "192.0.2.2",
            "Hostname": "www.acme.com",
            "Service": "website",
            "User": "root",
            "GeoLocation": "48.8584,2.2945",
            "UnLocation": "FR PAR",
            "Location": "Server room A1",
        }
    ],
    "Attachment": [{"Name": "log", "FileName": "victim.log"}],
}

OCSF: dict[str, Any] = {
    "activity_id": 1,
    "activity_name": "Create",
    "category_uid": 2,
    "class_uid": 2004,
    "type_uid": 200401,
    "time": 1_700_000_000_000,
    "severity_id": 4,
    "severity": "High",
    "confidence_id": 2,
    "verdict_id": 2,
    "status_id": 2,
    "message": "Beaconing to a known controller",
    "desc": "A workstation talks to a controller.",
    "impact_id": 3,
    "priority_id": 2,
    "risk_score": 80,
    "is_alert": True,
    "start_time": 1_699_999_000_000,
    "end_time": 1_700_000_100_000,
    "tlp": "TLP:GREEN",
    "metadata": {
        "version": "1.5.0",
        "product": {"name": "Sight", "vendor_name": "Acme", "version": "7"},
        "uid": "event-1",
        "labels": ["team:blue"],
    },
    "finding_info": {
        "uid": "finding-1",
        "title": "Beaconing to a known controller",
        "types": ['rsit:malicious-code="c2-server"'],
        "first_seen_time": 1_699_999_500_000,
        "analytic": {"name": "rule 7"},
    },
    "attacks": [
        {
            "tactic": {"uid": "TA0011", "name": "Command and Control"},
            "technique": {"uid": "T1071"},
            "sub_technique": {"uid": "T1071.001"},
            "version": "16",
        }
    ],
    "osint": [
        {"value": "203.0.113.66", "type_id": 1, "type": "IP Address", "tlp": "AMBER", "comment": "controller"},
        {"value": "CVE-2026-0001", "type_id": 10},
    ],
    "observables": [
        {"name": "device.ip", "type_id": 2, "value": "198.51.100.20"},
        {"name": "evidences[0].url", "type_id": 6, "value": "http://x.example/", "reputation": {"score_id": 9}},
    ],
    "malware": [
        {
            "name": "Emotet",
            "classification_ids": [18],
            "files": [{"name": "invoice.exe", "hashes": [{"algorithm_id": 3, "value": "ab" * 32}]}],
        }
    ],
    "vulnerabilities": [{"cve": {"uid": "CVE-2026-0002"}}],
    "evidences": [{"src_endpoint": {"ip": "198.51.100.20"}, "dst_endpoint": {"ip": "203.0.113.66"}}],
    "resources": [{"hostname": "payroll.victim.example"}],
    "device": {"hostname": "pc-7.victim.example", "ip": "198.51.100.20"},
    "assignee": {"name": "alice"},
    "tickets": [{"uid": "INC-7"}],
    "src_url": "https://siem.victim.example/finding-1",
}

IODEF: dict[str, Any] = {
    "version": "2.0",
    "lang": "en",
    "Incident": [
        {
            "purpose": "watch",
            "status": "in-progress",
            "restriction": "green",
            "IncidentID": {"id": "897923", "name": "csirt.example.com"},
            "AlternativeID": {"IncidentID": [{"id": "7", "name": "other.example.com"}]},
            "RelatedActivity": [
                {
                    "ThreatActor": [{"ThreatActorID": ["TA-12-AGGRESSIVE-BUTTERFLY"], "Description": ["Butterfly"]}],
                    "Campaign": [{"CampaignID": ["C-2015-59405"], "Description": ["Orange Giraffe"]}],
                }
            ],
            "GenerationTime": "2015-10-02T11:18:00-05:00",
            "ReportTime": "2015-10-02T11:17:00-05:00",
            "DetectTime": "2015-10-01T11:18:00-05:00",
            "StartTime": "2015-09-01T11:18:00-05:00",
            "EndTime": "2015-09-02T11:18:00-05:00",
            "RecoveryTime": "2015-10-02T10:18:00-05:00",
            "Description": ["Orange Giraffe", "Indicators of the Orange Giraffe campaign."],
            "Discovery": [{"source": "nidps"}],
            "Assessment": [
                {
                    "occurrence": "actual",
                    "IncidentCategory": ['rsit:malicious-code="c2-server"'],
                    "Impact": [
                        {"SystemImpact": {"severity": "high", "type": "takeover-system", "Description": ["owned"]}},
                        {"MonetaryImpact": {"value": 10_000_000, "currency": "JPY"}},
                        {"TimeImpact": {"value": 5, "metric": "elapsed"}},
                    ],
                    "Counter": [{"value": 3, "type": "count", "unit": "host"}],
                    "Cause": ["human-errors", "a click"],
                    "Confidence": {"value": 50, "rating": "medium"},
                }
            ],
            "Method": [
                {
                    "AttackPattern": [{"SpecID": "private", "ContentID": "T1566"}],
                    "Vulnerability": [{"SpecID": "private", "ContentID": "CVE-2015-0001"}],
                    "Reference": [{"URL": ["http://www.example.com/report"], "Description": ["A report"]}],
                }
            ],
            "Contact": [
                {
                    "type": "organization",
                    "role": "creator",
                    "ContactName": ["CSIRT for example.com"],
                    "Email": [{"EmailTo": "contact@csirt.example.com"}],
                    "Telephone": [{"TelephoneNumber": "+81423275862"}],
                    "RegistryHandle": [{"handle": "MyAPNIC", "registry": "apnic"}],
                },
                {"type": "organization", "role": "victim", "ContactName": ["Victim Ltd"]},
                {"type": "person", "role": "tech", "restriction": "red", "ContactName": ["Secret Person"]},
            ],
            "EventData": [
                {
                    "ReportTime": "2016-06-01T18:05:33Z",
                    "System": [
                        {
                            "category": "source",
                            "Node": {"Address": [{"category": "ipv4-addr", "value": "203.0.113.118"}]},
                            "NodeRole": [{"category": "client"}],
                        },
                        {
                            "category": "target",
                            "Node": {"Address": [{"category": "ipv4-addr", "value": "198.51.100.18"}]},
                            "Service": [{"Port": 23}],
                        },
                    ],
                    "Expectation": [{"action": "investigate", "Description": ["please"]}],
                }
            ],
            "Indicator": [
                {
                    "IndicatorID": {"id": "G90823490", "name": "csirt.example.com", "version": "1"},
                    "Description": ["C2 domains"],
                    "StartTime": "2014-12-02T11:18:00-05:00",
                    "Observable": {
                        "BulkObservable": {"type": "domain-name", "BulkObservableList": "kj290023j09r34.example.com"}
                    },
                },
                {
                    "IndicatorID": {"id": "G2", "name": "csirt.example.com", "version": "1"},
                    "IndicatorExpression": {"operator": "not"},
                },
            ],
            "History": {"HistoryItem": [{"action": "investigate", "DateTime": "2015-10-15T11:18:00-05:00"}]},
        }
    ],
}
