"""The laws of test_laws.py for the iptables backend, where a virtual server is written as a whole.

After any history of objects, foreign changes, refusals and deaths the rules are those that a fresh agent with the last
objects alone would write; a second round and a restart write nothing; what is not ours is as it was; and a virtual
server that iptables refuses keeps no other out.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes, Object, ObjectKey
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.model import VirtualServerId
from tests.support.generated_cluster import services, slices
from tests.support.iptables_pipeline import Agent

FOREIGN = (
    "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.1/32 -j RETURN\nCOMMIT\n"
)


def held(kernel: FakeKernel) -> dict[VirtualServerId, tuple[object, ...]]:
    """As iptables-save tells it, to somebody who remembers nothing."""
    return {i: row.signature() for chains in server_rules(kernel).chains.values() for i, row in chains.rows().items()}


def fresh(objects: Iterable[Object]) -> dict[VirtualServerId, tuple[object, ...]]:
    kernel = FakeKernel()
    Agent(kernel, objects, 0.0)
    return held(kernel)


class Laws(RuleBasedStateMachine):
    @initialize(items=st.lists(st.one_of(services, slices), max_size=4))
    def begin(self, items: list[Object]) -> None:
        self.kernel = FakeKernel()
        self.tool = self.kernel.rule_tools[Family.IPV4]
        self.tool.restore(FOREIGN)
        self.now = 0.0
        self.objects: dict[ObjectKey, Object] = {item.key: item for item in items}
        self.agent = Agent(self.kernel, self.objects.values(), self.now)

    @rule(item=st.one_of(services, slices))
    def upsert(self, item: Object) -> None:
        self.objects[item.key] = item
        self.agent.pipeline.apply_changes(Changes(upserts=(item,)), self.now)

    @rule(choice=st.integers(0, 100))
    def remove(self, choice: int) -> None:
        if self.objects:
            key = list(self.objects)[choice % len(self.objects)]
            del self.objects[key]
            self.agent.pipeline.apply_changes(Changes(removals=(key,)), self.now)

    @rule(seconds=st.sampled_from([0.0, 0.2, 40.0]))
    def round(self, seconds: float) -> None:
        self.now += seconds
        self.agent.round(self.now)

    @rule(choice=st.integers(0, 100), how=st.sampled_from(["-D", ":", "-F all", "-A"]))
    def somebody_breaks(self, choice: int, how: str) -> None:
        ours = [name for name in self.tool.held["nat"] if name.startswith("IPVSAGENT-")]
        name = ours[choice % len(ours)]
        rules = self.tool.held["nat"][name]
        if how == "-F all":
            lines = [f":{chain} - [0:0]" for chain in ours]
        elif how == "-A":
            lines = [f"-A {name} -p tcp -j RETURN"]
        elif how == "-D":
            lines = [f"-D {name} {rules[choice % len(rules)]}"] if rules else []
        else:
            lines = [f":{name} - [0:0]"]
        self.tool.restore("".join(f"{line}\n" for line in ["*nat", *lines, "COMMIT"]))

    @rule(word=st.sampled_from(["10.1.0.1", "10.96.0.2", "--dport 80", "-X"]), named=st.booleans())
    def refuse(self, word: str, named: bool) -> None:
        self.tool.refuses, self.tool.names_lines = lambda line: word in line, named

    @rule()
    def heal(self) -> None:
        self.tool.refuses = lambda line: False

    @rule(ops=st.integers(0, 6))
    def die(self, ops: int) -> None:
        self.tool.refuses = lambda line: False
        self.kernel.crash_after(ops)
        try:
            self.agent.round(self.now)
            Agent(self.kernel, self.objects.values(), self.now)
        except Killed:
            pass
        self.agent = Agent(self.kernel, self.objects.values(), self.now)

    @rule()
    def settle(self) -> None:
        self.tool.refuses = lambda line: False
        for _ in range(4):
            self.now += 40.0
            self.agent.round(self.now)
        assert held(self.kernel) == fresh(self.objects.values())
        assert self.agent.round(self.now) == 0
        self.agent = Agent(self.kernel, self.objects.values(), self.now)
        assert self.agent.written == 0
        assert not any(chains.held().stray_chains for chains in self.agent.servers.chains.values())

    @invariant()
    def others_are_left_alone(self) -> None:
        nat = self.tool.held["nat"]
        assert nat["KUBE-SERVICES"] == ["-d 10.96.0.1/32 -j RETURN"]
        assert "-j KUBE-SERVICES" in nat["PREROUTING"]

    def teardown(self) -> None:
        if hasattr(self, "agent"):
            self.settle()


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
