"""The asyncio client: `arrive` when retrieval begins, `rank` on what it hands back.

The trigger is asked with a short timeout and may be down: the request is then ranked
without a ticket, in full. Ranking is what must be answered; the relay only makes it fast.

Source: design, section 3 (client library).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from relaygr.behaviours.columns import FeatureSpec, Profile
from relaygr.client.calls import Calls, Direct
from relaygr.client.histories import BehavioursLike, Window, inline_history
from relaygr.client.numbers import COUNT_MAX, INDEX_MAX, SECONDS_MAX, ns_of, whole
from relaygr.client.relay import Relay, RelaySettings
from relaygr.domain.identity import TENANT_DEFAULT, ModelLimits
from relaygr.errors import AccessDenied, InvalidRequest, RelayError
from relaygr.security.settings import kept_material
from relaygr.telemetry import Telemetry, names
from relaygr.v1.common_pb2 import History
from relaygr.v1.trigger_pb2 import ArriveRequest, StageBudgets

SERVICE_NAME = "relaygr-client"
_UNKEYED = b"relaygr-client"
"""Keys user hashes of a client that exports nothing."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased."""

    device_entries: int
    dram_entries: int
    unreached: tuple[str, ...]
    """Instances that did not confirm: call again until this is empty."""


class RelayClient:
    """Announces and ranks requests; share one client in a process.

    Args:
        trigger: host:port, or several separated by commas: the next is called once one is lost.
        router: host:port, or several likewise; also one that falls silent is left, in the middle of a rank.
        tenant: whose users these are.
        telemetry: of the integrator; None draws trace ids and exports nothing.
        arrive_timeout_ms: longest wait for the trigger; after it the request goes on without a ticket.
        rank_deadline_ms: for ranks that give none.
        features: feature columns the model declares; absent ones are sent as zeros.
        limits: the model's window, to cut inline histories here; None sends them whole.
        direct: a way to the rankers that passes the router by, such as `services.router.direct.DirectRanks`: ranks
            go to the instance of their ticket, or of their user's slot, and by the router when that fails; `arrive`,
            `release` and `forget` go as ever. It saves a hop for each rank; what it does not know is said there.
            Tickets that ended so are reported to the router, many at a time, so that triggers free their room at once.
            Closed with the client. None: every rank goes by the router.
        tls_certificate: path of this client's certificate, PEM; with the next two, triggers and routers are spoken to
            over TLS and must prove their roles (docs/security.md). Files that change are read again. Empty: plain text.
        tls_key: path of that certificate's private key, PEM, without a password.
        tls_ca: path of the authorities' certificates that they are checked against, PEM.

    Raises:
        ConfigError: some of the three TLS paths without the others, or files that cannot be used.
    """

    def __init__(
        self,
        trigger: str,
        router: str,
        *,
        tenant: str = TENANT_DEFAULT,
        telemetry: Telemetry | None = None,
        arrive_timeout_ms: float = 20.0,
        rank_deadline_ms: float = 1000.0,
        features: FeatureSpec | None = None,
        limits: ModelLimits | None = None,
        direct: Direct | None = None,
        tls_certificate: str = "",
        tls_key: str = "",
        tls_ca: str = "",
    ):
        tls = kept_material(tls_certificate, tls_key, tls_ca)
        self._telemetry = telemetry or Telemetry.setup(SERVICE_NAME, SERVICE_NAME, None, _UNKEYED)
        self._owns_telemetry = telemetry is None
        self._calls = Calls(trigger, router, self._telemetry, direct, tls)
        self._arrive_timeout_s = arrive_timeout_ms / 1e3
        self._settings = RelaySettings(
            calls=self._calls,
            telemetry=self._telemetry,
            tenant=tenant,
            window=Window(features or FeatureSpec(), limits),
            rank_timeout_s=rank_deadline_ms / 1e3,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()
        if self._owns_telemetry:
            self._telemetry.shutdown()

    async def arrive(
        self,
        *,
        user: str | int,
        behaviours: BehavioursLike | None = None,
        profile: Profile | None = None,
        first_index: int = 0,
        as_of_s: int = 0,
        candidate_count: int = 0,
        delta_count: int = 0,
        request_id: str = "",
        rank_budget_ms: float = 0.0,
        time_to_rank_ms: float = 0.0,
        rank_latest_ms: float = 0.0,
    ) -> Relay:
        """Announce a request, at the start of retrieval.

        Args:
            user: id; an integer is sent in decimals.
            behaviours: the history, oldest first; None reads it from the behaviour store.
            profile: features of the user, with an inline history.
            first_index: index, in the user's whole log, of the first of `behaviours`. It decides whether
                the next request's history continues this one's.
            as_of_s: by reference, behaviours before this Unix second belong to the request; 0: all.
            candidate_count: candidates expected at ranking; 0: the instance's typical count.
            delta_count: short-term behaviours expected at ranking.
            request_id: unique per tenant; empty: drawn by the trigger.
            rank_budget_ms: ranking's budget at the SLO's quantile; 0: the trigger's default.
            time_to_rank_ms: expected time until `rank`; 0: the trigger's default.
            rank_latest_ms: latest time until `rank`; 0: the trigger's default.

        Raises:
            InvalidRequest: names the field.
        """
        if behaviours is None:
            history = History(as_of_s=whole("as_of_s", as_of_s, SECONDS_MAX))
        else:
            whole("first_index", first_index, INDEX_MAX)
            history = inline_history(behaviours, profile, first_index, self._settings.window)
        request = ArriveRequest(
            tenant=self._settings.tenant,
            user=str(user),
            request_id=request_id,
            history=history,
            candidate_count=whole("candidate_count", candidate_count, COUNT_MAX),
            delta_behaviour_count=whole("delta_count", delta_count, COUNT_MAX),
            budgets=StageBudgets(
                rank_budget_ns=ns_of("rank_budget_ms", rank_budget_ms),
                time_to_rank_ns=ns_of("time_to_rank_ms", time_to_rank_ms),
                rank_latest_ns=ns_of("rank_latest_ms", rank_latest_ms),
            ),
        )
        span = self._telemetry.tracer.start_span(names.SPAN_RECOMMEND)
        relay = Relay(self._settings, span, str(user), request_id, history)
        await self._announce(relay, request)
        return relay

    async def forget(self, user: str | int, *, timeout_ms: float = 5000.0) -> Forgotten:
        """Erase a user everywhere.

        Raises:
            RelayError: the router gave no answer; nothing may have been erased.
        """
        with self._telemetry.span(names.SPAN_RECOMMEND_STAGE, {names.ATTR_RECOMMEND_STAGE: "forget"}):
            answer = await self._calls.forget(self._settings.tenant, str(user), timeout_ms / 1e3)
        return Forgotten(answer.device_entries, answer.dram_entries, tuple(answer.unreached_instance_ids))

    async def _announce(self, relay: Relay, request: ArriveRequest) -> None:
        try:
            with relay.stage("arrive"):
                relay.answered(await self._calls.arrive(request, self._arrive_timeout_s))
        except RelayError as error:
            relay.unanswered(error)
            if isinstance(error, InvalidRequest | AccessDenied):
                # Ranking would refuse the same; better to hear of it now.
                await relay.release()
                raise
        except BaseException:
            await relay.release()  # ends the span; nothing was admitted that we know of
            raise
