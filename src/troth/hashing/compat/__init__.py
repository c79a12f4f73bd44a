"""Where other systems put a key: their hash functions, bit for bit, and small maps from there to a shard.

=================  ==================================================================================
`redis`            Redis Cluster and Valkey: CRC16, 16384 slots, hash tags
`cassandra`        Cassandra and ScyllaDB: Murmur3Partitioner's token, replicas of SimpleStrategy
`kafka`            Kafka's default partitioner for keyed records (murmur2)
`vitess`           Vitess' ``hash`` vindex (DES with the null key) and shard ranges
`troth.hashing.KetamaRing`   memcached clients that speak libketama
=================  ==================================================================================
"""

from troth.hashing.compat.cassandra import CassandraRing, cassandra_token, composite_key
from troth.hashing.compat.kafka import kafka_partition, murmur2
from troth.hashing.compat.redis import RedisSlots, hash_tag, redis_slot
from troth.hashing.compat.vitess import keyspace_id, shard_of, unhash_keyspace_id

__all__ = [
    "CassandraRing",
    "RedisSlots",
    "cassandra_token",
    "composite_key",
    "hash_tag",
    "kafka_partition",
    "keyspace_id",
    "murmur2",
    "redis_slot",
    "shard_of",
    "unhash_keyspace_id",
]
