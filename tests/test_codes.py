"""Codes that were printed, handed out or stored are good for ever: the same ones come out today."""

from __future__ import annotations

import pytest

from loyalty.codes import (
    CheckInCode,
    Secrets,
    check_in_code,
    read_check_in_code,
    referral_code,
    voucher_code,
    voucher_hash,
)

SECRETS = Secrets({1: b"the first secret", 2: b"the second one"})
CORNER = CheckInCode("shop", "corner", 3)
POSTER = "shop.corner.3.yZ4Zq0doGfXAqm4m"
VOUCHER = "H7Y9D-58ZV0-JT6HF-CWEVN"


def test_a_poster_is_signed_as_those_that_hang() -> None:
    assert check_in_code(SECRETS, CORNER) == POSTER
    assert read_check_in_code(SECRETS, POSTER) == CORNER


def test_a_voucher_is_shown_again_and_found_as_it_was_stored() -> None:
    assert voucher_code(SECRETS, 1, "shop", "r-1") == VOUCHER
    stored = "9f40c91cacbd9b183011f8651742dbe478b37d70"
    assert voucher_hash(VOUCHER) == stored
    assert voucher_hash(VOUCHER.replace("-", "").lower()) == stored
    assert voucher_hash(f" {VOUCHER} ") == stored


def test_a_member_shows_the_referral_code_that_friends_have() -> None:
    assert referral_code("shop", "ann", 0) == "KVTR3E8Z8Z"
    assert referral_code("shop", "ann", 1) == "N7NKY8T7YR"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop.corner.3",
        POSTER[:-1],
        POSTER + "A",
        POSTER.replace("3", "4", 1),
        POSTER[:-1] + "\ud800",
        f"{POSTER}.\ud800",
    ],
)
def test_what_we_did_not_sign_says_nothing(text: str) -> None:
    assert read_check_in_code(SECRETS, text) is None
