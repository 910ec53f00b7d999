"""What of a new configuration waits for a restart, and what is said of it."""

from __future__ import annotations

import msgspec
import pytest

from ipvsagent.config import Config, resolve
from ipvsagent.config.reload import reloaded
from ipvsagent.config.schema import SETTINGS
from tests.support.setting_examples import FIELDS

LIVE = {setting.field for setting in SETTINGS if setting.live}


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_taken_up_or_waited_for(field: str) -> None:
    wanted = msgspec.structs.replace(Config(), **{field: FIELDS[field][5]})
    config, waiting = reloaded(Config(), wanted, {})
    if field in LIVE:
        assert config == wanted and waiting == ()
    else:
        assert config == Config()
        assert [finding.field or finding.subject for finding in waiting] == [FIELDS[field][1] or FIELDS[field][3]]
        assert "when the agent is restarted" in waiting[0].reason


def test_where_it_was_written_is_said() -> None:
    text = b"apiVersion: ipvsagent.io/v1alpha1\nkind: IPVSAgentConfiguration\ninterface: svc0\n"
    resolved = resolve({}, {"c.yaml": text})
    _, (finding,) = reloaded(Config(), resolved.required(), resolved.origins)
    assert str(finding) == (
        "c.yaml: IPVSAgentConfiguration interface: is 'kube-ipvs0' and becomes 'svc0' when the agent is restarted"
    )
