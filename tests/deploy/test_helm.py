"""The Helm chart, linted and rendered by Helm's own library, and what comes out against what it promises."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.cli import _parser
from tests.deploy.helping import ROOT

CHART = ROOT / "deploy" / "helm" / "kentongan"
SETUP = (ROOT / "deploy" / "image" / "setup.sh").read_text("utf-8")
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
BROKER: dict[str, Any] = {}
NODE: dict[str, Any] = {
    "broker": {"enabled": False},
    "node": {
        "enabled": True, "member": "id-cert", "name": "BSSN, Indonesia", "invitation": "id", "busCa": "region-ca",
        "busTo": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "httpFrom": [PEER], "httpTls": "door", "httpClientCa": "soc",
    },
}  # fmt: skip
BOTH: dict[str, Any] = {
    "node": {"enabled": True, "member": "jp-cert", "invitation": "jp"},
    "broker": {"httpFrom": [PEER], "httpTls": "door"},
    "serviceMonitor": {"enabled": True, "labels": {"team": "cert"}},
    "image": {"digest": "sha256:" + "0" * 64},
}
CASES = {"broker": BROKER, "node": NODE, "both": BOTH}
each = pytest.mark.parametrize("values", CASES.values(), ids=CASES)

helm = pytest.importorskip(
    "helm_python.chart", reason="helm-python-sdk (Helm's own library as a wheel) is not installed"
)
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests, as Helm makes them."""
    made: dict[str, str] = helm.Chart.load(CHART).render(values, name="asean", namespace="kg")
    texts = [text for path, text in sorted(made.items()) if path.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def of(kind: str, manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in manifests if one["kind"] == kind]


def containers(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of all pods, those that prepare included."""
    pods = [one["spec"]["template"]["spec"] for one in of("StatefulSet", manifests)]
    return [found for pod in pods for found in (*pod.get("initContainers", []), *pod["containers"])]


@each
def test_helm_has_nothing_to_say(values: dict[str, Any]) -> None:
    """`helm lint --strict`."""
    report = helm.lint(CHART, values, strict=True, namespace="kg")
    # 1 is information, such as that a chart has no icon.
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@each
def test_every_manifest_holds_together(values: dict[str, Any]) -> None:
    """Names are unique, selectors select the pods, mounts have volumes, ports have names that are used."""
    manifests = render(values)
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)
    assert all(one["metadata"]["labels"]["app.kubernetes.io/instance"] == "asean" for one in manifests)
    sets = of("StatefulSet", manifests)
    assert len(sets) == sum(
        part["enabled"]
        for part in ({"enabled": True} | values.get("broker", {}), values.get("node", {"enabled": False}))
    )
    for one in sets:
        spec, pod = one["spec"], one["spec"]["template"]["spec"]
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert spec["replicas"] == 1
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        volumes = {volume["name"] for volume in pod["volumes"]}
        claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
        ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes | claims
        (service,) = [s for s in of("Service", manifests) if s["metadata"]["name"] == spec["serviceName"]]
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        budgets = of("PodDisruptionBudget", manifests)
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= labels.items() for budget in budgets)


@each
def test_every_pod_is_shut_in(values: dict[str, Any]) -> None:
    """Non-root, read-only root, no capabilities, the runtime's filter, no token of the cluster; memory is bounded."""
    manifests = render(values)
    assert of("Role", manifests) == of("ClusterRole", manifests) == of("Secret", manifests) == []
    for one in of("ServiceAccount", manifests):
        assert one["automountServiceAccountToken"] is False
    for one in of("StatefulSet", manifests):
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
    assert containers(manifests)
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["resources"]["limits"]["memory"]


@each
def test_every_command_exists(values: dict[str, Any]) -> None:
    """What the containers run is in the program's parser, or a step of the image's script with all its arguments."""
    for container in containers(render(values)):
        words = container["args"]
        assert all(isinstance(word, str) for word in words)
        if container["command"] == ["kentongan"]:
            _parser().parse_args(words)
            continue
        assert container["command"] == ["/opt/kentongan/libexec/setup.sh"]
        usage = re.search(rf"^#   setup\.sh {words[0]} (.*?)  ", SETUP, re.MULTILINE)
        assert usage
        wanted = [word for word in usage[1].split() if re.fullmatch("[A-Z]+", word)]
        assert len(words) - 1 == len(wanted)
        assert {item["name"] for item in container.get("env", [])} <= set(re.findall(r"\$\{(\w+):-", SETUP))


@each
def test_probes_ask_doors_that_exist(values: dict[str, Any]) -> None:
    """Health and readiness, at the port that the process listens on."""
    doors = (ROOT / "broker" / "api.py").read_text("utf-8") + (ROOT / "node" / "api" / "server.py").read_text("utf-8")
    for one in of("StatefulSet", render(values)):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {kind: probe["path"] for kind, probe in probes.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert all(doors.count(f'web.get("{probe["path"]}"') == 2 for probe in probes.values())
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {probe["port"] for probe in probes.values()} == {"http"}
        secure = values.get(container["name"], {}).get("httpTls", "")
        assert {probe["scheme"] for probe in probes.values()} == {"HTTPS" if secure else "HTTP"}
        assert ports["http"] == {"broker": 8480, "node": 8440}[container["name"]]


@each
def test_https_is_set_up_where_it_is_asked_for(values: dict[str, Any]) -> None:
    """What setup.sh writes into the settings is mounted where the process reads it; monitoring asks the same way."""
    manifests = render(values)
    for one in of("StatefulSet", manifests):
        pod = one["spec"]["template"]["spec"]
        role = pod["containers"][0]["name"]
        part = values.get(role, {})
        told = {item["name"]: item["value"] for item in pod["initContainers"][0]["env"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert bool(told["HTTP_TLS"]) == bool(part.get("httpTls"))
        assert bool(told["HTTP_CLIENT_CA"]) == bool(part.get("httpClientCa"))
        if told["HTTP_TLS"]:
            assert volumes[mounts[told["HTTP_TLS"]]]["secret"]["secretName"] == part["httpTls"]
        if told["HTTP_CLIENT_CA"]:
            place = str(Path(told["HTTP_CLIENT_CA"]).parent)
            assert volumes[mounts[place]]["configMap"]["name"] == part["httpClientCa"]
    monitors = {one["metadata"]["name"]: one["spec"]["endpoints"] for one in of("ServiceMonitor", manifests)}
    assert set(monitors) == ({"asean-broker", "asean-node"} if values is BOTH else set())
    for name, (endpoint,) in monitors.items():
        assert endpoint["path"] == "/metrics"
        assert endpoint.get("scheme", "http") == ("https" if name == "asean-broker" else "http")


@each
def test_the_network_is_closed_but_for_what_is_named(values: dict[str, Any]) -> None:
    """One policy closes every pod both ways; a node reaches the bus and names, a broker reaches nobody."""
    policies = {one["metadata"]["name"]: one["spec"] for one in of("NetworkPolicy", render(values))}
    nothing = policies.pop("asean-nothing")
    assert nothing["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(nothing)
    assert nothing["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "kentongan",
        "app.kubernetes.io/instance": "asean",
    }
    for name, spec in policies.items():
        rules = [(rule, "from") for rule in spec.get("ingress", [])] + [(rule, "to") for rule in spec.get("egress", [])]
        assert all(rule["ports"] and rule[peers] for rule, peers in rules)
        out = {port["port"] for rule in spec.get("egress", []) for port in rule["ports"]}
        assert out == (set() if name == "asean-broker" else {4222, 53})
    opened = {
        name: {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
        for name, spec in policies.items()
    }
    assert opened.get("asean-broker", {4222}) == ({4222, 8480} if values is BOTH else {4222})
    assert opened.get("asean-node", set()) == ({8440} if values is NODE else set())


@each
def test_values_are_those_of_the_schema(values: dict[str, Any]) -> None:
    """Defaults and cases are valid; the schema names every value, refuses others, and no value looks like a secret."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    merged = {name: default | values.get(name, {}) for name, default in defaults.items()}
    jsonschema.validate(merged, schema)
    assert set(schema["properties"]) - {"global"} == set(defaults)
    for name, part in defaults.items():
        assert set(schema["properties"][name]["properties"]) == set(part)
    assert not re.search(
        r"(?i)password|secret|token|seed|private", "".join(json.dumps(merged)).replace("pullSecrets", "")
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": {"enabled": True, "invitation": "x"}},
        {"node": {"enabled": True, "member": "id-cert"}},
        {"node": {"enabled": True, "member": "ID; rm", "invitation": "x"}},
        {"broker": {"region": 'a" "b'}},
        {"broker": {"publicUrl": "http://example.org"}},
        {"broker": {"replicas": 2}},
        {"image": {"digest": "sha256:short"}},
        {"disruptionBudget": {"maxUnavailable": 5}},
        {"broker": {"httpTls": "Door }"}},
        {"adminPassword": "x"},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    """By Helm itself, before anything is rendered."""
    chart = helm.Chart.load(CHART)
    with pytest.raises(Exception, match=r"(?i)schema|additional|does not match|must be|minLength|length"):
        chart.validate_schema(wrong)


def test_the_notes_name_commands_that_exist() -> None:
    """The command for the broker's operator is one that the program takes."""
    text = (CHART / "templates" / "NOTES.txt").read_text("utf-8")
    lines = re.findall(r"-- (kentongan .*)$", text, re.MULTILINE)
    assert len(lines) == 1
    assert vars(_parser().parse_args(shlex.split(lines[0])[1:]))["policy"] == [Path("/tmp/policy.toml")]  # noqa: S108


def test_the_chart_has_the_programs_version() -> None:
    """The image's tag is the chart's appVersion by default."""
    (image,) = {container["image"] for container in containers(render(BROKER))}
    assert image == "kentongan:" + yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"]
    (pinned,) = {container["image"] for container in containers(render(BOTH))}
    assert pinned == "kentongan@sha256:" + "0" * 64
