"""Which parts of an object are accepted, left out, rejected or ignored, and the message for each."""

import json

import pytest

from ipvsagent.address import Family
from ipvsagent.cluster.decode import Accepted, Ignored, Rejected, decode_json, decode_plain
from ipvsagent.cluster.objects import Endpoint, EndpointPort, LoadBalancerIngress, ObjectKey, ServicePort
from ipvsagent.model import Protocol


def both(kind, plain):
    """Decodes from JSON and from Python objects; the two always agree."""
    result = decode_json(kind, json.dumps(plain).encode())
    assert decode_plain(kind, plain) == result
    return result


def service(spec=None, status=None, **metadata):
    return {
        "metadata": {"name": "cart", "namespace": "shop", **metadata},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], **(spec or {})},
        "status": status or {},
    }


def endpoint_slice(*, metadata=None, **fields):
    return {
        "metadata": {
            "name": "cart-x7f",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "cart"},
            **(metadata or {}),
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "", "port": 8080}],
        **fields,
    }


def node(spec=None, status=None, **metadata):
    return {"metadata": {"name": "n1", **metadata}, "spec": spec, "status": status}


def ingress(*entries):
    return {"loadBalancer": {"ingress": list(entries)}}


def affinity(**config):
    return {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": config}}


HTTP, DNS = {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}
V4, V6 = "10.96.0.1", "fd00::1"

SERVICES = [
    # (spec, status), attribute, value
    (({}, {}), "type", "ClusterIP"),
    (({}, {}), "headless", False),
    (({}, {}), "cluster_ips", (V4,)),
    (({}, {}), "ports", (ServicePort("", Protocol.TCP, 80),)),
    (({"clusterIP": "010.096.0.1"}, {}), "cluster_ips", (V4,)),
    (({"clusterIPs": [V4, V6]}, {}), "cluster_ips", (V4,)),
    (({"clusterIPs": [V4, V6], "ipFamilies": ["IPv4", "IPv6"]}, {}), "cluster_ips", (V4, V6)),
    (
        ({"clusterIP": V6, "clusterIPs": ["FD00::0:1", V4], "ipFamilies": ["IPv6", "IPv4"]}, {}),
        "cluster_ips",
        (V6, V4),
    ),
    (({"clusterIPs": [V4], "ipFamilies": ["IPv4", "IPv6"]}, {}), "cluster_ips", (V4,)),
    (({"clusterIPs": [V4, V6], "ipFamilies": ["IPv4"]}, {}), "cluster_ips", (V4,)),
    (({"clusterIP": None, "clusterIPs": [V4]}, {}), "cluster_ips", (V4,)),
    (({"clusterIPs": None, "ipFamilies": ["IPv4"]}, {}), "cluster_ips", (V4,)),
    (({"clusterIP": "None", "clusterIPs": ["None"]}, {}), "headless", True),
    (({"type": "ExternalName"}, {}), "headless", True),
    (({"type": "ExternalName", "clusterIP": ""}, {}), "headless", True),
    (({"ports": None}, {}), "ports", ()),
    (
        ({"ports": [HTTP, DNS]}, {}),
        "ports",
        (ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)),
    ),
    (
        ({"ports": [{"port": 80, "nodePort": 30080}]}, {}),
        "ports",
        (ServicePort("", Protocol.TCP, 80, 30080),),
    ),
    (({"ports": [{"port": 1, "protocol": "SCTP"}]}, {}), "ports", (ServicePort("", Protocol.SCTP, 1),)),
    (
        (
            {
                "ports": [
                    {"name": "a", "port": 53, "protocol": "UDP"},
                    {"name": "b", "port": 53, "protocol": "TCP"},
                ]
            },
            {},
        ),
        "ports",
        (ServicePort("a", Protocol.UDP, 53), ServicePort("b", Protocol.TCP, 53)),
    ),
    (({"internalTrafficPolicy": "Local"}, {}), "internal_local", True),
    (({"internalTrafficPolicy": None}, {}), "internal_local", False),
    (({"externalTrafficPolicy": "Local"}, {}), "external_local", True),
    (({"externalTrafficPolicy": "Cluster"}, {}), "external_local", False),
    (({"sessionAffinity": "None"}, {}), "affinity_timeout", 0),
    (({"sessionAffinity": "ClientIP"}, {}), "affinity_timeout", 10800),
    ((affinity(timeoutSeconds=None), {}), "affinity_timeout", 10800),
    ((affinity(timeoutSeconds=86400), {}), "affinity_timeout", 86400),
    ((affinity(timeoutSeconds=1), {}), "affinity_timeout", 1),
    (({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, {}), "affinity_timeout", 0),
    (
        ({"externalIPs": ["192.0.2.1", "", " 192.0.2.1", "2001:db8::1"]}, {}),
        "external_ips",
        ("192.0.2.1", "2001:db8::1"),
    ),
    (({}, ingress({"ip": "192.0.2.9"})), "ingress", (LoadBalancerIngress("192.0.2.9"),)),
    (({}, ingress({"ip": "192.0.2.9", "ipMode": "VIP"})), "ingress", (LoadBalancerIngress("192.0.2.9"),)),
    (
        ({}, ingress({"ip": "192.0.2.9", "ipMode": "Proxy"})),
        "ingress",
        (LoadBalancerIngress("192.0.2.9", True),),
    ),
    (({}, ingress({"hostname": "lb.example.com"}, {"ip": ""})), "ingress", ()),
    (({}, {"loadBalancer": None}), "ingress", ()),
    (({"loadBalancerIP": "192.0.2.9"}, {}), "ingress", ()),
    (
        ({"loadBalancerSourceRanges": [" 10.1.2.3/8 ", "", "2001:db8::/32", "10.0.0.0/8"]}, {}),
        "source_ranges",
        ("10.0.0.0/8", "2001:db8::/32"),
    ),
    (({"loadBalancerSourceRanges": ["0.0.0.0/0"]}, {}), "source_ranges", ("0.0.0.0/0",)),
    (({"healthCheckNodePort": 30183}, {}), "health_check_node_port", 30183),
    (({"healthCheckNodePort": None}, {}), "health_check_node_port", 0),
]


@pytest.mark.parametrize(("parts", "attribute", "value"), SERVICES)
def test_service(parts, attribute, value):
    result = both("Service", service(*parts))
    assert isinstance(result, Accepted)
    assert result.findings == ()
    assert getattr(result.value, attribute) == value


@pytest.mark.parametrize("spec", [{"clusterIP": ""}, {"clusterIP": None}, {"clusterIPs": []}, {"type": "NodePort"}])
def test_a_service_that_was_never_applied_is_named(spec):
    plain = service({"clusterIP": None, **spec})
    result = both("Service", plain)
    assert (result.value.headless, result.value.ports) == (True, ())
    assert [str(finding) for finding in result.findings] == [
        "Service shop/cart spec.clusterIP: is missing, so the Service is not served: a cluster assigns it when the "
        "Service is applied; apply it, and use what `kubectl get services -o yaml` prints"
    ]
    plain["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    assert both("Service", plain).findings == ()


METADATA = [
    ({"creationTimestamp": "1970-01-02T00:00:00Z"}, "created", 86400),
    ({"creationTimestamp": "2024-02-29T12:30:45.678+02:00"}, "created", 1709202645),
    ({"creationTimestamp": None}, "created", None),
    ({}, "created", None),
    ({"namespace": None}, "namespace", "default"),
    ({"labels": {"service.kubernetes.io/service-proxy-name": ""}}, "headless", True),
    ({"labels": {"service.kubernetes.io/service-proxy-name": "other"}}, "headless", True),
    ({"labels": {"service.kubernetes.io/headless": ""}}, "headless", False),
    (
        {"annotations": {"ipvsagent.io/scheduler": "sh", "kube-router.io/service.hairpin": "", "a/b": "c"}},
        "annotations",
        {"ipvsagent.io/scheduler": "sh", "kube-router.io/service.hairpin": ""},
    ),
    ({"annotations": None}, "annotations", {}),
]


@pytest.mark.parametrize(("metadata", "attribute", "value"), METADATA)
def test_service_metadata(metadata, attribute, value):
    assert getattr(both("Service", service(**metadata)).value, attribute) == value


SLICES = [
    ({}, "service", "cart"),
    ({}, "family", Family.IPV4),
    ({}, "endpoints", (Endpoint("10.0.0.1"),)),
    ({}, "ports", (EndpointPort("", Protocol.TCP, 8080),)),
    ({"metadata": {"labels": None}}, "service", ""),
    ({"metadata": {"labels": {"kubernetes.io/service-name": ""}}}, "service", ""),
    ({"endpoints": None}, "endpoints", ()),
    ({"endpoints": [{"addresses": []}, {"addresses": None}, {}]}, "endpoints", ()),
    ({"endpoints": [{"addresses": ["10.0.0.2", "nonsense"]}]}, "endpoints", (Endpoint("10.0.0.2"),)),
    (
        {
            "endpoints": [
                {
                    "addresses": ["10.0.0.2"],
                    "conditions": {"ready": False, "serving": False, "terminating": True},
                }
            ]
        },
        "endpoints",
        (Endpoint("10.0.0.2", False, False, True),),
    ),
    (
        {
            "endpoints": [
                {
                    "addresses": ["10.0.0.2"],
                    "conditions": {"ready": None, "serving": None, "terminating": None},
                    "nodeName": None,
                    "hints": None,
                }
            ]
        },
        "endpoints",
        (Endpoint("10.0.0.2", True, True, False),),
    ),
    (
        {
            "endpoints": [
                {
                    "addresses": ["10.0.0.2"],
                    "nodeName": "n1",
                    "zone": "z1",
                    "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]},
                }
            ]
        },
        "endpoints",
        (Endpoint("10.0.0.2", node="n1", zone="z1", zone_hints=("z1", "z2"), node_hints=("n1",)),),
    ),
    (
        {"addressType": "IPv6", "endpoints": [{"addresses": ["FD00::0:2"]}]},
        "endpoints",
        (Endpoint("fd00::2"),),
    ),
    ({"ports": None}, "ports", ()),
    (
        {"ports": [{"name": None, "port": 1}, {"name": "a", "port": None}, {"name": "b", "port": 0}]},
        "ports",
        (EndpointPort("", Protocol.TCP, 1),),
    ),
    ({"ports": [{"port": 1}]}, "ports", (EndpointPort("", Protocol.TCP, 1),)),
    (
        {"ports": [{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
        "ports",
        (EndpointPort("dns", Protocol.TCP, 53), EndpointPort("dns", Protocol.UDP, 53)),
    ),
]


@pytest.mark.parametrize(("fields", "attribute", "value"), SLICES)
def test_endpoint_slice(fields, attribute, value):
    result = both("EndpointSlice", endpoint_slice(**fields))
    assert isinstance(result, Accepted)
    assert result.findings == ()
    assert getattr(result.value, attribute) == value


NODES = [
    (
        node(
            status={
                "addresses": [
                    {"type": "ExternalIP", "address": "192.0.2.1"},
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "10.0.0.1"},
                ]
            }
        ),
        "addresses",
        ("10.0.0.1", "192.0.2.1"),
    ),
    (node(status={"addresses": None}), "addresses", ()),
    (node(labels={"topology.kubernetes.io/zone": "z1"}), "zone", "z1"),
    (node(), "zone", ""),
    (node(spec={"podCIDRs": ["10.1.0.0/24", "fd01::/64"]}), "pod_cidrs", ("10.1.0.0/24", "fd01::/64")),
    (node(spec={"podCIDR": "10.1.0.0/24"}), "pod_cidrs", ("10.1.0.0/24",)),
    (
        node(annotations={"ipvsagent.io/weight": "3", "other": "4"}),
        "annotations",
        {"ipvsagent.io/weight": "3"},
    ),
]


@pytest.mark.parametrize(("plain", "attribute", "value"), NODES)
def test_node(plain, attribute, value):
    result = both("Node", plain)
    assert result.key == ObjectKey("Node", "", "n1")
    assert result.findings == ()
    assert getattr(result.value, attribute) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"addressType": "FQDN", "endpoints": [{"addresses": ["db.example.com"]}]},
        {"metadata": {"labels": {"service.kubernetes.io/headless": ""}}},
    ],
)
def test_ignored_slices(fields):
    ignored = both("EndpointSlice", endpoint_slice(**fields))
    assert ignored == Ignored(ObjectKey("EndpointSlice", "shop", "cart-x7f"))


S, E = "Service shop/cart", "EndpointSlice shop/cart-x7f"
REJECTED = [
    # kind, object, the finding as a person reads it
    ("Service", service(name=None), "Service without a usable name metadata.name: is missing"),
    (
        "Service",
        service(name=5),
        "Service without a usable name metadata.name: must be text, not a whole number",
    ),
    (
        "Service",
        service(name="a\nb"),
        r"Service without a usable name metadata.name: 'a\nb' is not a name, which has lower-case letters, "
        "digits, '-' and '.' only",
    ),
    ("Service", {}, "Service without a usable name metadata.name: is missing"),
    ("Service", [], "Service without a usable name: must be a mapping, not a list"),
    ("Service", {"metadata": {"name": "a"}}, "Service default/a spec: is missing"),
    ("Service", service({"ports": [{}]}), f"{S} spec.ports[0].port: is missing"),
    (
        "Service",
        service({"ports": [{"port": "http"}]}),
        f"{S} spec.ports[0].port: must be a whole number, not text",
    ),
    (
        "Service",
        service({"ports": [{"port": 80.5}]}),
        f"{S} spec.ports[0].port: must be a whole number, not a number with a fraction",
    ),
    ("Service", service({"ports": 80}), f"{S} spec.ports: must be a list, not a whole number"),
    (
        "Service",
        service({"ports": [{"port": 0}]}),
        f"{S} spec.ports[0].port: 0 is not in the range 1 to 65535",
    ),
    (
        "Service",
        service({"ports": [{"port": 65536}]}),
        f"{S} spec.ports[0].port: 65536 is not in the range 1 to 65535",
    ),
    (
        "Service",
        service({"ports": [{"port": 10**30}]}),
        f"{S} spec.ports[0].port: a number that large is not in the range 1 to 65535",
    ),
    (
        "Service",
        service({"ports": [{"port": 1, "nodePort": -1}]}),
        f"{S} spec.ports[0].nodePort: -1 is not in the range 0 to 65535",
    ),
    (
        "Service",
        service({"ports": [{"port": 1, "protocol": "tcp"}]}),
        f"{S} spec.ports[0].protocol: 'tcp' is not TCP, UDP or SCTP",
    ),
    (
        "Service",
        service({"ports": [{"port": 1, "protocol": "FWM"}]}),
        f"{S} spec.ports[0].protocol: 'FWM' is not TCP, UDP or SCTP",
    ),
    (
        "Service",
        service({"ports": [HTTP, {"port": 81}]}),
        f"{S} spec.ports[1].name: is missing; a Service with several ports must name each of them",
    ),
    (
        "Service",
        service({"ports": [HTTP, {"name": "http", "port": 81}]}),
        f"{S} spec.ports[1].name: 'http' is also the name of an earlier port",
    ),
    (
        "Service",
        service({"ports": [HTTP, {"name": "web", "port": 80}]}),
        f"{S} spec.ports[1].port: TCP 80 is also an earlier port",
    ),
    (
        "Service",
        service({"clusterIP": "10.96.0"}),
        f"{S} spec.clusterIP: '10.96.0' is not an IP address",
    ),
    (
        "Service",
        service({"clusterIP": "127.0.0.1"}),
        f"{S} spec.clusterIP: 127.0.0.1 cannot be served: it is a loopback address",
    ),
    (
        "Service",
        service({"clusterIPs": [V4, "x"], "ipFamilies": ["IPv4", "IPv6"]}),
        f"{S} spec.clusterIPs[1]: 'x' is not an IP address",
    ),
    (
        "Service",
        service({"clusterIPs": ["10.96.0.2"]}),
        f"{S} spec.clusterIPs[0]: is 10.96.0.2, but spec.clusterIP is '10.96.0.1'",
    ),
    (
        "Service",
        service({"ipFamilies": ["IPv6"]}),
        f"{S} spec.ipFamilies[0]: is IPv6, but the cluster IP there is 10.96.0.1",
    ),
    ("Service", service({"ipFamilies": ["IPv5"]}), f"{S} spec.ipFamilies[0]: 'IPv5' is not IPv4 or IPv6"),
    (
        "Service",
        service({"clusterIPs": [V4, V4], "ipFamilies": ["IPv4", "IPv4"]}),
        f"{S} spec.ipFamilies: names a family twice",
    ),
    (
        "Service",
        service(affinity(timeoutSeconds=0)),
        f"{S} spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not in the range 1 to 86400",
    ),
    (
        "Service",
        service({"healthCheckNodePort": 70000}),
        f"{S} spec.healthCheckNodePort: 70000 is not in the range 0 to 65535",
    ),
    (
        "Service",
        service(creationTimestamp="yesterday"),
        f"{S} metadata.creationTimestamp: 'yesterday' is not a time like 2006-01-02T15:04:05Z",
    ),
    ("Service", service(labels={"a": 1}), f"{S} metadata.labels: must be text, not a whole number"),
    ("EndpointSlice", endpoint_slice(addressType=None), f"{E} addressType: is missing"),
    (
        "EndpointSlice",
        endpoint_slice(addressType="IP"),
        f"{E} addressType: 'IP' is not IPv4, IPv6 or FQDN",
    ),
    (
        "EndpointSlice",
        endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0"]}]),
        f"{E} endpoints[1].addresses[0]: '10.0.0' is not an IP address",
    ),
    (
        "EndpointSlice",
        endpoint_slice(endpoints=[{"addresses": "10.0.0.1"}]),
        f"{E} endpoints[0].addresses: must be a list, not text",
    ),
    (
        "EndpointSlice",
        endpoint_slice(endpoints=[{"conditions": {"ready": "yes"}}]),
        f"{E} endpoints[0].conditions.ready: must be true or false, not text",
    ),
    (
        "EndpointSlice",
        endpoint_slice(ports=[{"name": "a", "port": 65536}]),
        f"{E} ports[0].port: 65536 is not in the range 1 to 65535",
    ),
    (
        "EndpointSlice",
        endpoint_slice(ports=[{"name": "a", "port": 1}, {"name": "a", "port": 2}]),
        f"{E} ports[1].name: 'a' is also the name of an earlier TCP port",
    ),
    ("Node", {"metadata": {"name": ""}}, "Node without a usable name metadata.name: is missing"),
    (
        "Node",
        node(status={"addresses": "10.0.0.1"}),
        "Node n1 status.addresses: must be a list, not text",
    ),
]


@pytest.mark.parametrize(("kind", "plain", "text"), REJECTED)
def test_rejected(kind, plain, text):
    result = both(kind, plain)
    assert isinstance(result, Rejected)
    assert str(result.finding) == text
    assert result.finding.kind == "invalid-object"


def test_a_rejected_object_says_who_it_is():
    assert both("Service", service(labels=3)).key == ObjectKey("Service", "shop", "cart")
    piece = both("EndpointSlice", endpoint_slice(ports=3))
    assert (piece.key, piece.service) == (ObjectKey("EndpointSlice", "shop", "cart-x7f"), "cart")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "Service without a usable name: it cannot be read: Input data was truncated"),
        (b'{"spec":', "Service without a usable name: it cannot be read: Input data was truncated"),
        (b"{" * 3, "Service without a usable name: it cannot be read: JSON is malformed"),
        (b'{"metadata":{"name":"\xff"}}', "Service without a usable name: it cannot be read: 'utf-8' codec"),
        (b'{"x":' * 100_000, "Service without a usable name: it cannot be read: maximum recursion depth"),
    ],
)
def test_not_json(raw, text):
    assert str(decode_json("Service", raw).finding).startswith(text)


RANGES = f"{S} spec.loadBalancerSourceRanges"
LEFT_OUT = [
    (
        "Service",
        service({"externalIPs": ["192.0.2.1", "bogus", "127.0.0.1"]}),
        [
            ("address-refused", f"{S} spec.externalIPs[1]: 'bogus' is not an IP address; it is left out"),
            (
                "address-refused",
                f"{S} spec.externalIPs[2]: 127.0.0.1 is not served: it is a loopback address",
            ),
        ],
    ),
    (
        "Service",
        service(status=ingress({"ip": "224.0.0.9"}, {"ip": "x"}, {"ip": "192.0.2.1"})),
        [
            (
                "address-refused",
                f"{S} status.loadBalancer.ingress[0].ip: 224.0.0.9 is not served: it is a multicast address",
            ),
            (
                "address-refused",
                f"{S} status.loadBalancer.ingress[1].ip: 'x' is not an IP address; it is left out",
            ),
        ],
    ),
    (
        "Service",
        service({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1", "10.0.0.0/33"]}),
        [
            (
                "invalid-object",
                f"{RANGES}[1]: '10.0.0.1' is not a range of addresses; it is left out",
            ),
            (
                "invalid-object",
                f"{RANGES}[2]: '10.0.0.0/33' is not a range of addresses; it is left out",
            ),
        ],
    ),
    (
        "Service",
        service({"externalTrafficPolicy": "local"}),
        [
            (
                "invalid-object",
                f"{S} spec.externalTrafficPolicy: 'local' is not Cluster or Local; it counts as Cluster",
            )
        ],
    ),
    (
        "Service",
        service({"sessionAffinity": "clientip"}),
        [
            (
                "invalid-object",
                f"{S} spec.sessionAffinity: 'clientip' is not None or ClientIP; it counts as None",
            )
        ],
    ),
    (
        "EndpointSlice",
        endpoint_slice(
            endpoints=[{"addresses": [a]} for a in ("10.0.0.1", "fd00::1", "127.0.0.1", "0.0.0.0", "224.0.0.1")]
        ),
        [
            (
                "endpoint-refused",
                f"{E} endpoints[1].addresses[0]: fd00::1 gets no traffic: the slice is for IPv4 addresses",
            ),
            (
                "endpoint-refused",
                f"{E} endpoints[2].addresses[0]: 127.0.0.1 gets no traffic: it is a loopback address",
            ),
            (
                "endpoint-refused",
                f"{E} endpoints[3].addresses[0]: 0.0.0.0 gets no traffic: it is the unspecified address",
            ),
            (
                "endpoint-refused",
                f"{E} endpoints[4].addresses[0]: 224.0.0.1 gets no traffic: it is a multicast address",
            ),
        ],
    ),
    (
        "Node",
        node({"podCIDRs": ["10.1.0.0"]}, {"addresses": [{"type": "InternalIP", "address": "n1"}]}),
        [
            (
                "invalid-object",
                "Node n1 status.addresses[0].address: 'n1' is not an IP address; it is left out",
            ),
            (
                "invalid-object",
                "Node n1 spec.podCIDRs[0]: '10.1.0.0' is not a range of addresses; it is left out",
            ),
        ],
    ),
]


@pytest.mark.parametrize(("kind", "plain", "findings"), LEFT_OUT)
def test_parts_left_out(kind, plain, findings):
    result = both(kind, plain)
    assert isinstance(result, Accepted)
    assert [(f.kind, str(f)) for f in result.findings] == findings


def test_load_balancer_addresses_are_not_opened_when_no_range_can_be_used():
    plain = service({"loadBalancerSourceRanges": ["everyone"]}, ingress({"ip": "192.0.2.1"}))
    result = both("Service", plain)
    assert result.value.ingress == ()
    assert result.value.cluster_ips == (V4,)
    assert str(result.findings[-1]) == (
        f"{S} spec.loadBalancerSourceRanges: has no valid range, so the load balancer addresses are not "
        "served, rather than opened to all clients"
    )
