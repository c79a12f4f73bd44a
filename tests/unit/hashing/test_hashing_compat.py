"""Other systems' hashes against their published vectors."""

import pytest

from troth.hashing import BadKey, BadSetting, NoNodes, TooFewNodes, UnknownNode
from troth.hashing.compat import (
    CassandraRing,
    RedisSlots,
    cassandra_token,
    composite_key,
    hash_tag,
    kafka_partition,
    keyspace_id,
    murmur2,
    redis_slot,
    shard_of,
    unhash_keyspace_id,
)
from troth.hashing.compat.vitess import _null_key_des


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),
        ("foo", 12182),
        ("bar", 5061),
        ("hello", 866),
        ("{foo}bar", 12182),
        ("{user1000}.following", 3443),
        ("{user1000}.followers", 3443),
        ("foo{}{bar}", 8363),
        ("a{}b", 13694),
        ("full_key", 10135),
        ("partial.{user}", 5474),
        ("partial.{}{user}", 12062),
        ("", 0),
    ],
)
def test_redis_slots(key: str, slot: int) -> None:
    """The specification's check value, and slots that CLUSTER KEYSLOT answers (as in client libraries' tests)."""
    assert redis_slot(key) == slot == redis_slot(key.encode())


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("{user1000}.following", b"user1000"),
        ("foo{}{bar}", b"foo{}{bar}"),
        ("foo{{bar}}zap", b"{bar"),
        ("foo{bar}{zap}", b"bar"),
        ("foo{bar", b"foo{bar"),
        ("foo}bar{", b"foo}bar{"),
    ],
)
def test_redis_hash_tags_as_in_the_specification(key: str, tag: bytes) -> None:
    assert hash_tag(key) == tag


def test_redis_slot_map() -> None:
    slots = RedisSlots({"one": [(0, 8191)], "two": [(8192, 16000)]})
    assert slots.node("foo") == "two" and slots.node("bar") == "one"
    with pytest.raises(UnknownNode):
        RedisSlots({"one": [(0, 5)]}).node("foo")
    with pytest.raises(BadSetting, match="slot 5 "):
        RedisSlots({"one": [(0, 5)], "two": [(5, 9)]})
    with pytest.raises(BadSetting, match="within"):
        RedisSlots({"one": [(0, 16384)]})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
        ("", 275646681),
        ("a", -1563381124),
        ("kafka", -798503068),
        ("4", 1514888353),
        ("34", -2026295078),
        ("234", -406844982),
        ("1234", -1614185708),
        ("string-f-24-chars-length", 124730809),
        ("string-fo-25-chars-length", 1269511650),
        ("string-foo-26-chars-length", 119165628),
        ("string-last-27-chars-length", 1089971754),
    ],
)
def test_kafka_murmur2(key: str, expected: int) -> None:
    """Kafka's UtilsTest.testMurmur2, librdkafka's unit test, and client libraries' extra tail lengths."""
    assert murmur2(key) == expected


def test_kafka_partitions() -> None:
    """The first is a client's vector; the second shows that the sign bit is cleared, not negated."""
    assert kafka_partition("foobar", 50) == 16
    assert kafka_partition("21", 12) == (-973932308 & 0x7FFFFFFF) % 12 != 973932308 % 12
    with pytest.raises(BadSetting):
        kafka_partition("k", 0)


@pytest.mark.parametrize(
    ("key", "token"),
    [
        (b"123", -7468325962851647638),
        (b"\x00\xff\x10\xfa\x99" * 10, 5837342703291459765),
        (b"\xfe" * 8, -8927430733708461935),
        (b"\x10" * 8, 1446172840243228796),
        (b"9223372036854775807", 7162290910810015547),
        (bytes(range(1, 17)), -5563837382979743776),
        (bytes(range(2, 18)), -1513403162740402161),
        (bytes(range(3, 19)), -495360443712684655),
        (bytes(range(4, 20)), 1734091135765407943),
        (bytes(range(5, 21)), -3199412112042527988),
        (bytes(range(6, 22)), -6316563938475080831),
        (bytes(range(7, 23)), 8228893370679682632),
        (b"\x00" * 16, 5457549051747178710),
        (b"\xff" * 16, -2824192546314762522),
        (b"\xfe" * 16, -833317529301936754),
        (b"\x00\x01\x02\x03" + b"\xff" * 12, 6463632673159404390),
        (b"\xfe" * 17, -1672437813826982685),
        (b"\xfe" * 4, 4566408979886474012),
        (b"\x00" * 4, -3485513579396041028),
        (b"\x00\x01\x7f\x7f", 6573459401642635627),
        (b"\x00\xff\xff\xff", 123573637386978882),
        (b"\xff\x01\x02\x03", -2839127690952877842),
        (b"\xe2\xe7", -8582699461035929883),
        (b"\xe2\xe7\xe2\xe7\xe2\xe7\x01", 2222373981930033306),
    ],
)
def test_cassandra_tokens(key: bytes, token: int) -> None:
    """The vectors of the Cassandra drivers' tests; those with bytes >= 0x80 in the tail show the sign extension."""
    assert cassandra_token(key) == token


def test_cassandra_empty_key_and_composite_keys() -> None:
    assert cassandra_token(b"") == -(2**63)
    assert composite_key(["ab", b"\x01"]) == b"\x00\x02ab\x00\x00\x01\x01\x00"
    with pytest.raises(BadKey):
        composite_key([b"x" * 65536])


def test_cassandra_ring_takes_the_first_token_not_below() -> None:
    token = cassandra_token("123")
    ring = CassandraRing({"a": [token], "b": [token + 1], "c": [2**62]})
    assert ring.node("123") == "a"
    assert ring.nodes("123", 3) == ["a", "b", "c"]
    assert CassandraRing({"a": [token - 1], "b": [token - 2]}).node("123") == "b"  # around the end
    with pytest.raises(TooFewNodes):
        ring.nodes("123", 4)
    with pytest.raises(NoNodes):
        CassandraRing({}).node("k")
    with pytest.raises(BadSetting):
        CassandraRing({"a": [1], "b": [1]})
    with pytest.raises(BadSetting):
        CassandraRing({"a": [2**63]})
    with pytest.raises(BadSetting, match="no whole number"):
        CassandraRing({"a": ["0x1"]})
    as_text = CassandraRing({"a": [str(token)], "b": [str(token + 1)], "c": [str(2**62)]})
    assert as_text.nodes("123", 3) == ring.nodes("123", 3), "system.peers gives tokens as text"


@pytest.mark.parametrize(
    ("number", "hexed"),
    [
        (1, "166b40b44aba4bd6"),
        (2, "06e7ea22ce92708f"),
        (3, "4eb190c9a2fa169c"),
        (4, "d2fd8867d50d2dfe"),
        (5, "70bb023c810ca87a"),
        (6, "f098480ac4c4be71"),
    ],
)
def test_vitess_hash_vindex(number: int, hexed: str) -> None:
    """Vitess' own TestHashMap and TestHashReverseMap."""
    assert keyspace_id(number).hex() == hexed
    assert unhash_keyspace_id(bytes.fromhex(hexed)) == number


def test_des_with_the_null_key_matches_the_published_variable_plaintext_tests() -> None:
    """NIST SP 800-17, table 1 uses key 0101010101010101, which is the null key but for parity bits."""
    published = {
        0x8000000000000000: 0x95F8A5E5DD31D900,
        0x4000000000000000: 0xDD7F121CA5015619,
        0x2000000000000000: 0x2E8653104F3834EA,
        0x0000000000000001: 0x166B40B44ABA4BD6,
    }
    for plain, cipher in published.items():
        assert _null_key_des(plain) == cipher
        assert _null_key_des(cipher) == plain


def test_vitess_bounds_and_shards() -> None:
    assert keyspace_id(-1) == keyspace_id(2**64 - 1)
    with pytest.raises(BadKey):
        keyspace_id(2**64)
    with pytest.raises(BadKey):
        unhash_keyspace_id(b"short")
    shards = ["-40", "40-80", "80-"]
    assert [shard_of(keyspace_id(number), shards) for number in (1, 3, 4)] == ["-40", "40-80", "80-"]
    assert shard_of(keyspace_id(1), ["0"]) == "0"
    with pytest.raises(UnknownNode):
        shard_of(keyspace_id(4), ["-80"])
    with pytest.raises(BadSetting):
        shard_of(keyspace_id(4), ["upper"])
    with pytest.raises(BadSetting):
        shard_of(keyspace_id(4), ["80"])


def test_kafka_topic_of_one_partition() -> None:
    assert kafka_partition("any key", 1) == 0
    with pytest.raises(BadSetting):
        kafka_partition("any key", 0)
