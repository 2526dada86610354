"""What is done next and when, with a clock that stands still."""

from __future__ import annotations

import pytest
from datakit_sidecar.errors import (
    AccountDisabled,
    ClockSkew,
    KdcSilent,
    KdcUnreachable,
    KerberosFailed,
    KeyRefused,
    PublishFailed,
    ServiceUnknown,
    SidecarError,
    TicketEnded,
)
from datakit_sidecar.kerberos import Times
from datakit_sidecar.life import Decision, Life, Step
from hypothesis import given
from hypothesis import strategies as st

NOON = 1_800_000_000.0
HOUR = 3600.0
SQL = "MSSQLSvc/sql01:1433"
OTHER = "MSSQLSvc/sql02:1433"


def life(services: tuple[str, ...] = (SQL,), **options: object) -> Life:
    return Life(services, random=lambda: 0.0, **options)  # type: ignore[arg-type]


def with_ticket(hours: float = 10, renewable: float | None = 168, **options: object) -> Life:
    """A life at noon with key, ticket-granting ticket and everything published."""
    state = life(**options)
    state.key_arrived(b"key 1")
    renew_until = None if renewable is None else NOON + renewable * HOUR
    state.granted(Times(NOON, NOON + hours * HOUR, renew_until), NOON, key=b"key 1")
    state.served((SQL,), {}, NOON)
    state.published()
    return state


def test_without_a_key_it_waits_for_one() -> None:
    assert life().next(NOON) == Decision(Step.WAIT)


def test_a_key_is_used_at_once() -> None:
    state = life()

    assert state.key_arrived(b"key 1")

    assert state.next(NOON) == Decision(Step.ISSUE)


def test_a_key_whose_request_is_on_its_way_is_not_used_a_second_time() -> None:
    state = life()
    state.key_arrived(b"key 1")

    state.failed(Step.ISSUE, KdcSilent("x", in_flight=True), NOON, key=b"key 1")
    assert state.next(NOON + HOUR) == Decision(Step.WAIT)
    state.retry_now(renew=True)
    assert state.next(NOON + HOUR) == Decision(Step.WAIT)
    assert state.key_arrived(b"key 2")
    assert state.next(NOON + HOUR) == Decision(Step.ISSUE)
    assert state.key_arrived(b"key 1")
    assert state.next(NOON + HOUR) == Decision(Step.WAIT)

    state.ended(b"key 1")
    state.failed(Step.ISSUE, KdcUnreachable("x"), NOON + HOUR, key=b"key 1")
    assert state.next(NOON + HOUR) == Decision(Step.ISSUE)


def test_a_ticket_is_renewed_while_a_request_with_the_key_is_on_its_way() -> None:
    state = with_ticket()
    state.key_arrived(b"key 2")

    state.failed(Step.ISSUE, KdcSilent("x", in_flight=True), NOON, key=b"key 2")

    assert state.next(NOON).step is Step.WAIT
    assert state.next(NOON + 5 * HOUR) == Decision(Step.RENEW)


def test_a_late_refusal_counts_as_one_in_time() -> None:
    state = life()
    state.key_arrived(b"key 1")
    state.failed(Step.ISSUE, KdcSilent("x", in_flight=True), NOON, key=b"key 1")

    state.ended(b"key 1")
    state.failed(Step.ISSUE, KeyRefused("x"), NOON, key=b"key 1")

    assert not state.has_usable_key
    assert state.next(NOON + HOUR) == Decision(Step.WAIT)


def test_the_same_key_again_is_no_news() -> None:
    state = with_ticket()

    assert not state.key_arrived(b"key 1")

    assert state.next(NOON).step is Step.WAIT


def test_services_come_before_publication() -> None:
    state = life(shares_granting=True)
    state.key_arrived(b"key 1")
    state.granted(Times(NOON, NOON + HOUR), NOON, key=b"key 1")

    assert state.next(NOON) == Decision(Step.SERVICES)
    state.served((SQL,), {}, NOON)
    assert state.next(NOON) == Decision(Step.PUBLISH)
    state.published()
    assert state.next(NOON).step is Step.WAIT


def test_a_ticket_is_renewed_after_half_of_its_life() -> None:
    state = with_ticket(hours=10)

    assert state.next(NOON) == Decision(Step.WAIT, NOON + 5 * HOUR)
    assert state.next(NOON + 5 * HOUR) == Decision(Step.RENEW)


def test_many_sidecars_do_not_renew_at_the_same_moment() -> None:
    state = life()
    state.random = lambda: 1.0
    state.key_arrived(b"key 1")
    state.granted(Times(NOON, NOON + 10 * HOUR, NOON + 168 * HOUR), NOON, key=b"key 1")
    state.served((SQL,), {}, NOON)
    state.published()

    assert state.next(NOON) == Decision(Step.WAIT, NOON + 4.5 * HOUR)


def test_a_ticket_never_has_less_than_the_minimum_life_if_renewal_can_help_it() -> None:
    state = with_ticket(hours=1, minimum_life=1500.0)

    assert state.next(NOON) == Decision(Step.WAIT, NOON + HOUR - 3000)


@pytest.mark.parametrize("renewable", [None, 10.5])
def test_a_ticket_that_cannot_live_long_by_renewal_is_got_with_the_key(renewable: float | None) -> None:
    state = with_ticket(hours=10, renewable=renewable)

    assert state.next(NOON + 5 * HOUR) == Decision(Step.ISSUE)


def test_an_expired_ticket_is_got_with_the_key() -> None:
    state = with_ticket()

    assert state.next(NOON + 11 * HOUR) == Decision(Step.ISSUE)


@pytest.mark.parametrize("error", [TicketEnded("x"), KerberosFailed("x"), ClockSkew("x"), AccountDisabled("x")])
def test_a_renewal_that_the_kdc_refuses_is_followed_by_the_key(error: SidecarError) -> None:
    state = with_ticket()

    state.failed(Step.RENEW, error, NOON + 5 * HOUR)

    assert state.next(NOON + 5 * HOUR) == Decision(Step.ISSUE)


@pytest.mark.parametrize("error", [KdcSilent("x"), KdcUnreachable("x")])
def test_a_kdc_that_is_away_is_asked_again_at_once_and_then_later_and_later(error: SidecarError) -> None:
    state = with_ticket()
    now = NOON + 5 * HOUR
    pauses = []
    for _ in range(9):
        assert state.next(now) == Decision(Step.RENEW)
        state.failed(Step.RENEW, error, now)
        until = state.next(now).until
        pauses.append(0.0 if until is None else until - now)
        now += pauses[-1]

    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_pauses_are_short_where_tickets_are_short() -> None:
    state = with_ticket(hours=10 / HOUR)
    for _ in range(20):
        state.failed(Step.RENEW, KdcUnreachable("x"), NOON + 5)

    until = state.next(NOON + 5).until

    assert until is not None
    assert until - NOON - 5 <= 1


def test_a_pause_is_shortened_at_random_so_that_many_do_not_come_back_at_once() -> None:
    state = life()
    state._granting_tries.random = lambda: 1.0
    state.key_arrived(b"key 1")
    for _ in range(3):
        state.failed(Step.ISSUE, KdcUnreachable("x"), NOON)

    assert state.next(NOON) == Decision(Step.WAIT, NOON + 1)


def test_after_an_outage_of_any_length_it_goes_on() -> None:
    state = with_ticket()
    now = NOON + 5 * HOUR
    for _ in range(500):
        step = state.next(now).step
        assert step in (Step.RENEW, Step.ISSUE)
        state.failed(step, KdcUnreachable("x"), now)
        now = max(now, state.next(now).until or now)
    assert now > NOON + 12 * HOUR

    assert state.next(now).step is Step.ISSUE
    state.granted(Times(now, now + 10 * HOUR, now + 168 * HOUR), now, key=b"key 1")
    assert state.next(now) == Decision(Step.SERVICES)


def test_a_denial_is_asked_about_again_after_minutes_and_not_seconds() -> None:
    state = life()
    state.key_arrived(b"key 1")

    state.failed(Step.ISSUE, AccountDisabled("x"), NOON)

    assert state.next(NOON) == Decision(Step.WAIT, NOON + 300)


def test_a_refused_key_is_never_tried_again() -> None:
    state = life()
    state.key_arrived(b"key 1")
    state.failed(Step.ISSUE, KeyRefused("x"), NOON, key=b"key 1")

    assert state.next(NOON) == Decision(Step.WAIT)
    assert state.next(NOON + 1000 * HOUR) == Decision(Step.WAIT)
    state.retry_now(renew=True)
    assert state.next(NOON) == Decision(Step.WAIT)
    state.key_arrived(b"key 2")
    assert state.next(NOON) == Decision(Step.ISSUE)
    state.key_arrived(b"key 1")
    assert state.next(NOON) == Decision(Step.WAIT)


def test_a_refused_new_key_leaves_the_old_ticket_alive_and_renewed() -> None:
    state = with_ticket()
    state.key_arrived(b"key 2")
    assert state.next(NOON) == Decision(Step.ISSUE)

    state.failed(Step.ISSUE, KeyRefused("x"), NOON, key=b"key 2")

    assert state.next(NOON) == Decision(Step.WAIT, NOON + 5 * HOUR)
    assert state.next(NOON + 5 * HOUR) == Decision(Step.RENEW)


def test_without_a_usable_key_a_short_renewal_is_better_than_none() -> None:
    state = with_ticket(hours=10, renewable=12)
    state.key_arrived(b"key 2")
    state.failed(Step.ISSUE, KeyRefused("x"), NOON, key=b"key 2")

    assert state.next(NOON + 5 * HOUR) == Decision(Step.RENEW)


def test_a_new_key_is_used_at_once_so_that_a_wrong_one_is_known_early() -> None:
    state = with_ticket()

    state.key_arrived(b"key 2")

    assert state.next(NOON + 1) == Decision(Step.ISSUE)


def test_a_key_that_arrives_while_the_former_one_is_refused_is_used() -> None:
    state = life()
    state.key_arrived(b"key 1")
    state.key_arrived(b"key 2")

    state.failed(Step.ISSUE, KeyRefused("x"), NOON, key=b"key 1")

    assert state.next(NOON) == Decision(Step.ISSUE)


@pytest.mark.parametrize("used", [None, b"key 1"])
def test_a_key_that_arrives_while_a_ticket_is_got_without_it_is_used(used: bytes | None) -> None:
    state = with_ticket()
    state.key_arrived(b"key 2")

    state.granted(Times(NOON, NOON + HOUR, NOON + 100 * HOUR), NOON, key=used)

    assert state.next(NOON) == Decision(Step.ISSUE)


def test_a_service_that_fails_does_not_hold_up_the_others() -> None:
    state = life((SQL, OTHER))
    state.key_arrived(b"key 1")
    state.granted(Times(NOON, NOON + 10 * HOUR, NOON + 168 * HOUR), NOON, key=b"key 1")

    state.served((SQL,), {OTHER: ServiceUnknown("x")}, NOON)

    assert state.next(NOON) == Decision(Step.PUBLISH)
    state.published()
    assert state.next(NOON) == Decision(Step.WAIT, NOON + 300)
    assert state.next(NOON + 300) == Decision(Step.SERVICES)
    assert state.missing == (OTHER,)


def test_tickets_that_the_realm_no_longer_takes_are_got_anew() -> None:
    state = with_ticket()
    state.missing = (SQL,)
    for _ in range(2):
        state.served((), {SQL: KerberosFailed("the realm's key changed")}, NOON)

    assert state.next(NOON + 1) == Decision(Step.ISSUE)


def test_a_publication_that_failed_is_tried_again() -> None:
    state = with_ticket()
    state.unpublished = True

    state.publish_failed(PublishFailed("the volume is full"), NOON)

    assert state.next(NOON) == Decision(Step.PUBLISH)
    state.publish_failed(PublishFailed("the volume is full"), NOON)
    assert state.next(NOON) == Decision(Step.WAIT, NOON + 1)


def test_a_signal_waits_for_nothing() -> None:
    state = life()
    state.key_arrived(b"key 1")
    state.failed(Step.ISSUE, AccountDisabled("x"), NOON)

    state.retry_now()

    assert state.next(NOON) == Decision(Step.ISSUE)


def test_a_signal_can_ask_for_new_tickets() -> None:
    state = with_ticket()

    state.retry_now(renew=True)

    assert state.next(NOON + 1) == Decision(Step.RENEW)


def test_a_clock_that_is_set_back_does_not_make_a_pause_longer() -> None:
    state = life()
    state.key_arrived(b"key 1")
    for _ in range(3):
        state.failed(Step.ISSUE, KdcUnreachable("x"), NOON)

    until = state.next(NOON - 100 * HOUR).until

    assert until is not None
    assert until <= NOON - 100 * HOUR + 2


_EVENTS = st.sampled_from(
    ["key 1", "key 2", "grant", "refuse", "away", "deny", "serve", "miss", "publish", "full", "now"]
)


@given(st.lists(st.tuples(_EVENTS, st.floats(0, 20 * HOUR)), max_size=40))
def test_whatever_happens_a_refused_key_is_not_used_and_it_never_stands_still_with_a_good_one(
    events: list[tuple[str, float]],
) -> None:
    state, now, refused, key = life(shares_granting=True), NOON, set[bytes](), None
    for event, pause in events:
        now += pause
        step = state.next(now).step
        assert not (step is Step.ISSUE and key in refused)
        match event:
            case "key 1" | "key 2":
                key = event.encode()
                state.key_arrived(key)
            case "grant":
                state.granted(Times(now, now + 10 * HOUR, now + 20 * HOUR), now, key=key)
            case "refuse" if step is Step.ISSUE and key is not None:
                refused.add(key)
                state.failed(step, KeyRefused("x"), now, key=key)
            case "away" | "deny" if step in (Step.ISSUE, Step.RENEW):
                state.failed(step, KdcSilent("x") if event == "away" else AccountDisabled("x"), now)
            case "serve" | "miss" if step is Step.SERVICES:
                missing = {} if event == "serve" else dict.fromkeys(state.missing, KdcSilent("x"))
                state.served(() if missing else state.missing, missing, now)
            case "publish":
                state.published()
            case "full" if step is Step.PUBLISH:
                state.publish_failed(PublishFailed("x"), now)
            case "now":
                state.retry_now()
    decision = state.next(now)
    if key is not None and key not in refused and decision.step is Step.WAIT:
        assert decision.until is not None
        assert decision.until > now
