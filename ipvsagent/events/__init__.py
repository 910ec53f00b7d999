"""Events: what `kubectl describe` shows of a finding, on the Service or the Node that it is about. Pure.

    event.py   which finding is an Event, on which object, and what the API is told of it
    plan.py    which Event is to be written when, so that no number of nodes floods the API server

The thread that writes them is api/event_writer.py.

They are written as events.k8s.io/v1, as kube-proxy does, and not as core/v1, though that would allow to change what an
Event says: strict validation keeps mistakes of ours out, and ClusterRole system:node-proxier allows both. Either kind
is shown by `kubectl describe` and `kubectl get events`.
"""
