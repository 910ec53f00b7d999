"""Reading /proc/net/ip_vs, the lab's own view of the kernel."""

import pytest

from integration.lab.ipvs import RealServer, parse, virtual_servers

LISTING = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> C0A8380A:192B      Masq    1      3          0
UDP  [fd00:0010:0096:0000:0000:0000:0000:000a]:0035 rr persistent 10800 FFFFFFFF
  -> [fd00:0010:0244:0001:0000:0000:0000:0016]:0035      Masq    0      0          7
TCP  0A60000A:0035 rr
FWM  00001001 rr
  -> 0AF40101:1F90      Masq    1      0          0
"""


def test_listing_is_read():
    assert parse(LISTING) == {
        "TCP 10.96.0.1:443": {"192.168.56.10:6443": RealServer(1, 3, 0)},
        "UDP [fd00:10:96::a]:53": {"[fd00:10:244:1::16]:53": RealServer(0, 0, 7)},
        "TCP 10.96.0.10:53": {},
        "FWM 4097": {"10.244.1.1:8080": RealServer(1, 0, 0)},
    }


def test_empty_table():
    assert parse("\n".join(LISTING.splitlines()[:3])) == {}


@pytest.mark.kernel
def test_kernels_own_listing(lab):
    rules = "-A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.244.1.1:8080 -m -w 3\n"
    rules += "-A -u [fd00:10:96::1]:53 -s rr\n-a -u [fd00:10:96::1]:53 -r [fd00:10:244:1::1]:53 -m\n-A -f 4097 -s rr\n"
    lab.node.run("ipvsadm", "-R", stdin=rules)
    assert virtual_servers(lab.node) == {
        "TCP 10.96.0.1:80": {"10.244.1.1:8080": RealServer(3, 0, 0)},
        "UDP [fd00:10:96::1]:53": {"[fd00:10:244:1::1]:53": RealServer(1, 0, 0)},
        "FWM 4097": {},
    }
    assert virtual_servers(lab.client) == {}
