"""Where does a key live in the Redis Cluster, Cassandra, Kafka, Vitess or memcached that you already run?

python examples/hashing_where_is_my_key.py
"""

from troth.hashing import KetamaRing
from troth.hashing.compat import (
    CassandraRing,
    RedisSlots,
    cassandra_token,
    composite_key,
    kafka_partition,
    keyspace_id,
    redis_slot,
    shard_of,
)

# Redis Cluster: the slot, and the node that serves it. Ranges as in CLUSTER SHARDS, both ends included.
slots = RedisSlots(
    {"10.0.0.1:6379": [(0, 5460)], "10.0.0.2:6379": [(5461, 10922)], "10.0.0.3:6379": [(10923, 16383)]}
)
print("redis   user:1000        slot", redis_slot("user:1000"), "on", slots.node("user:1000"))
assert redis_slot("foo") == 12182  # what CLUSTER KEYSLOT foo answers
# A hash tag keeps keys together, so that one transaction may touch them both.
assert redis_slot("{user1000}.following") == redis_slot("{user1000}.followers") == 3443

# Kafka: the partition of a keyed record, as the Java client chooses it.
print("kafka   order-42         partition", kafka_partition("order-42", 12), "of 12")
assert kafka_partition("foobar", 50) == 16

# Cassandra: CQL's token(), and the replicas from the tokens that nodetool ring lists.
ring = CassandraRing({"10.0.1.1": [-(2**62)], "10.0.1.2": [0], "10.0.1.3": [2**62]})
print("cassandra 123            token", cassandra_token("123"), "on", ring.nodes("123", 2))
assert cassandra_token("123") == -7468325962851647638
print("cassandra ('eu', 7)      token", cassandra_token(composite_key(["eu", (7).to_bytes(4, "big")])))

# Vitess: the keyspace id of a number under the `hash` vindex, and its shard.
print(
    "vitess  1                keyspace id",
    keyspace_id(1).hex(),
    "in shard",
    shard_of(keyspace_id(1), ["-80", "80-"]),
)
assert keyspace_id(1).hex() == "166b40b44aba4bd6"

# memcached behind clients that speak libketama: weights are its "memory" column.
caches = KetamaRing({"127.0.0.1:11211": 600, "127.0.0.1:11212": 400})
print("ketama  test             on", caches.node("test"))
assert caches.node("test") == "127.0.0.1:11211"
