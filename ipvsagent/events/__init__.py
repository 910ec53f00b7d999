"""Makes Events of findings: what `kubectl describe` shows of a finding, on the Service or the Node that it is about.
Pure.

    event.py   which finding becomes an Event, on which object, and with what content
    plan.py    which Event is written when, so that no number of nodes floods the API server

The thread that writes them is in api/event_writer.py.

Events are written as events.k8s.io/v1, as kube-proxy does, and not as core/v1, though that would allow changing the
text of an Event: strict validation catches mistakes of ours, and ClusterRole system:node-proxier allows both. `kubectl
describe` and `kubectl get events` show either kind.
"""
