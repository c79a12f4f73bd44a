import pytest

from troth.errors import UsageError
from troth.runtime.addresses import is_loopback, parse_address, resolved


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:7001", "127.0.0.1", 7001, ""),
        ("db-1.example:80", "db-1.example", 80, ""),
        ("[::1]:7001", "::1", 7001, ""),
        (":7001", "", 7001, ""),
        ("unix:/run/n1.sock", "", 0, "/run/n1.sock"),
    ],
)
def test_addresses_are_read_and_written_back(text: str, host: str, port: int, path: str) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.path) == (host, port, path)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", "host:70000", "host:-1", "host:x", "::1:7001", "unix:", "unix:/" + "x" * 120),
        *("x" * 64 + ".example:1", "a..b:1", "a\0b:1", "a b:1"),
    ],
)
def test_what_is_no_address_is_refused_with_advice(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert any(hint in str(caught.value) for hint in ("host:port", "[::1]:7001", "unix:", "unix socket"))


def test_only_numbers_of_this_machine_are_loopback() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("127.8.9.10") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("10.0.0.1") and not is_loopback("::")
    assert resolved(parse_address("127.0.0.1:1")) == ["127.0.0.1"]
    assert resolved(parse_address("unix:/tmp/x")) == []
    assert any(not is_loopback(ip) for ip in resolved(parse_address(":1")))
