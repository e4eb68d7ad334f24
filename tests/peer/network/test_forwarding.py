"""A transport in front of another one changes nothing by itself."""

from __future__ import annotations

from peer.network.forwarding import ForwardingTransport
from swarm.transport import Call, Request, Route
from tests.peer.company import Company, in_virtual_time, soon


async def echo(call: Call) -> bytes:
    return bytes(call.body)


@in_virtual_time
async def test_everything_is_forwarded() -> None:
    company = Company()
    behind = company.transport(1)
    other = company.transport(2)
    front = ForwardingTransport(behind)
    front.serve(Route("echo", echo))
    other.serve(Route("echo", echo))
    assert await front.request(other.me, Request("echo", b"hello"), deadline=soon()) == b"hello"
    assert await other.request(front.me, Request("echo", b"hello"), deadline=soon()) == b"hello"
    assert front.me == behind.me
    assert (front.bytes_up, front.bytes_down) == (behind.bytes_up, behind.bytes_down)
    assert front.bytes_up > 0
