"""Ranks without the router's hop: a client that watches the instances itself and calls rankers directly.

    direct = DirectRanks(("etcd:2379",))
    async with RelayClient(trigger="trigger:7001", router="router:7002", direct=direct) as client:
        ...

Theory of operation. The same core as the router's, fed by the same watches of instances and slot tables: a rank goes
where its ticket points, one without a ticket to its slot's instance. One attempt is made; whatever goes wrong on the
way (nobody there, no answer in time, an instance that is not known here) is the router's to repair, in the time that
is left. Without etcd the last snapshot serves; with none yet, every rank goes by the router.

What a router knows and this does not: pins (they are named by a hash under the ticket key, which a client does not
hold), where users were lately, and what other callers send. So a user who was spilled and ranks without a ticket may
miss its psi here. A router that does not see a rank does not know that its ticket has ended, either: the client
tells it, some milliseconds later and many at a time (`RouterService/ReportEnded`), and the router its trigger.

Source: design, section 3 (router, client library).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from relaygr.domain.identity import TENANT_DEFAULT, UserKey
from relaygr.errors import Stale, Unreachable
from relaygr.registry import Registry
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.identity import model_key_of
from relaygr.security.identity import Role
from relaygr.security.settings import kept_material
from relaygr.telemetry import Telemetry
from relaygr.v1.common_pb2 import TicketClaims
from relaygr.v1.ranker_pb2 import RankRequest, RankResponse
from relaygr.v1.router_pb2 import RouterServiceRankResponse
from services.router.adapters.discovery import Discovery
from services.router.adapters.rankers import Rankers
from services.router.core.binding import Binding, Refusal, Subject, TicketRef
from services.router.forward import RankCall
from services.router.relay import Relay
from services.router.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNKEYED = b"relaygr-direct-ranks"
"""Names users in this process's own view of load, and nowhere else."""
_MARGIN_NS = 2_000_000


class DirectRanks:
    """A client's own way to the rankers; begins to watch with its first rank. Belongs to one event loop then.

    Args:
        registry: etcd endpoints, host:port, or a registry that is connected already; it is closed with this.
        suspect_timeout_ms: health check of an instance that lets a rank wait.
        spill_floor_ms: a rank without a ticket leaves an instance only when more device time than this is queued there.
        warm_up_s: how long a slot takes to move to an instance that joined; as the routers have it.
        tls_certificate: path of the client's certificate, PEM, as `RelayClient` has it; all three, or none.
        tls_key: path of its key.
        tls_ca: path of the authorities that rankers are checked against.

    Raises:
        ConfigError: TLS files that cannot be used.
    """

    def __init__(
        self,
        registry: Sequence[str] | Registry,
        *,
        suspect_timeout_ms: float = 300.0,
        spill_floor_ms: float = 50.0,
        warm_up_s: float = 30.0,
        tls_certificate: str = "",
        tls_key: str = "",
        tls_ca: str = "",
    ) -> None:
        self._tls = kept_material(tls_certificate, tls_key, tls_ca)
        self._registry = registry if isinstance(registry, Registry) else None
        self._endpoints = () if isinstance(registry, Registry) else tuple(registry)
        self._suspect_timeout_s = suspect_timeout_ms / 1e3
        self._spill_floor_ns = int(spill_floor_ms * 1e6)
        self._warm_up_ns = int(warm_up_s * 1e9)
        self._view: View | None = None
        self._relay: Relay | None = None
        self._is_closed = False

    @property
    def instance_ids(self) -> list[str]:
        """The instances known, in order."""
        return [member.record.instance_id for member in self._view.core.members] if self._view else []

    async def rank(
        self, request: RankRequest, timeout_s: float, telemetry: Telemetry
    ) -> RouterServiceRankResponse | None:
        """Rank on the instance that should have the user's psi; None when the router should be asked instead.

        Raises:
            RelayError: the ranker's refusal, which a router would pass on as well.
        """
        if self._is_closed:
            return None
        relay = self._relay or self._started(telemetry)
        assert self._view is not None
        try:
            ticket = _ticket_of(request)
        except DecodeError:
            return None
        if ticket is not None and isinstance(self._view.core.route_pre_infer(ticket), Refusal):
            return None
        user = UserKey(request.tenant or TENANT_DEFAULT, request.user)
        subject = Subject(user, user.hashed(_UNKEYED))
        try:
            call = RankCall(request, request.SerializeToString())
            ranked = await relay.rank(subject, ticket, call, int(timeout_s * 1e9))
        except (Unreachable, Stale):
            return None
        return RouterServiceRankResponse(
            rank=RankResponse.FromString(ranked.raw), branch=f"BRANCH_{ranked.branch.value}", attempts=ranked.attempts
        )

    async def close(self) -> None:
        """Stop watching and close the channels; repeatable."""
        self._is_closed = True
        registry, self._registry = self._registry, None
        view, self._view = self._view, None
        if view is not None:
            view.driver.close()
        if registry is not None:
            await registry.close()
        if view is not None:
            await view.close()

    def _started(self, telemetry: Telemetry) -> Relay:
        """Begin to watch. The first ranks find nobody here and go by the router."""
        self._registry = self._registry or Registry(self._endpoints)
        core = Binding(spill_floor_ns=self._spill_floor_ns, warm_up_ns=self._warm_up_ns)
        rankers = Rankers(ChannelPool(telemetry, tls=self._tls, peer_role=Role.RANKER))
        view = View(core, rankers, telemetry, suspect_timeout_s=self._suspect_timeout_s, changed=lambda: None)
        Discovery(self._registry, view.driver.feed, is_whole=False)
        self._view = view
        self._relay = Relay(
            core,
            view.driver.feed,
            rankers,
            view.probes,
            telemetry,
            view.metrics,
            margin_ns=_MARGIN_NS,
            attempts_max=1,
        )
        return self._relay


def _ticket_of(request: RankRequest) -> TicketRef | None:
    """Where the ticket points. Whether it is genuine, the ranker decides: a client holds no key.

    Raises:
        DecodeError: it cannot be read.
    """
    if not request.HasField("ticket"):
        return None
    claims = TicketClaims.FromString(request.ticket.claims)
    return TicketRef(claims.instance_id, claims.instance_epoch, model_key_of(claims.model))
