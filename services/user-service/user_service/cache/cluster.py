"""Redis Cluster: each command goes to the node that has the slot of its key.

redis-py's RedisCluster knows which node that is. What it does when a node fails is too slow for
a cache: with the request waiting, it sleeps for 250 ms, asks one node after the other for the
present map, and tries again. Here the request fails at once, and the map is drawn anew beside it.
"""

import time
from functools import partial
from typing import Any, cast

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis import exceptions as redis_errors
from redis.cluster import ClusterNode, RedisCluster

from user_service.cache.client import (
    Background,
    Changes,
    RedisClient,
    connection_options,
    pool_options,
)

# Times that a command is sent on, by nodes that no longer have its slot.
MAX_REDIRECTIONS = 2
# Seconds between two maps at least, however many requests fail.
MAP_INTERVAL = 0.2

_SCRIPTS = {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"}
_NODE_IS_GONE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.ReadOnlyError,
)


class ClusterClient(RedisClient):
    """Commands on the keys of one slot each; what has no key goes to every master."""

    def __init__(
        self, nodes: list[tuple[str, int]], options: dict[str, Any], *, timeout: float
    ) -> None:
        changes = Changes()
        super().__init__(ConnectionPool(), changes)  # which stays empty: each node has its own
        (host, port), *self._other_nodes = nodes
        host = f"[{host}]" if ":" in host else host
        self._connect = partial(
            RedisCluster,
            url=f"redis://{host}:{port}",  # with a URL, RedisCluster takes a pool of our kind
            connection_pool_class=BlockingConnectionPool,
            # Names stay what the configuration says, wherever the nodes move.
            dynamic_startup_nodes=False,
            require_full_coverage=False,
            redis_connect_func=changes.note,
            **(connection_options(timeout) | pool_options(timeout) | options),
        )
        self._timeout = timeout
        self._cluster: RedisCluster | None = None
        self._drawn_at = 0.0
        self._map = Background("redis-cluster", self._draw_map)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to where its key is, and on from there if that has moved."""
        cluster = self._known_cluster()
        try:
            if (key := _key_of(args)) is None:
                return self._to_every_master(cluster, args, options)
            return self._to_master_of(key, cluster, args, options)
        except _NODE_IS_GONE:
            self._draw_map_soon()
            raise

    def pipeline(self, *_: Any, **__: Any) -> Any:
        """Refuse: its commands could be for several nodes."""
        raise NotImplementedError("a pipeline in a cluster")

    def disconnect(self) -> None:
        """Close the connections to all nodes."""
        if self._cluster is not None:
            self._cluster.disconnect_connection_pools()

    def _to_master_of(
        self,
        key: object,
        cluster: RedisCluster,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        node, asking = _node(cluster, key), False
        for _ in range(MAX_REDIRECTIONS):
            try:
                return _send(cluster, node, args, options, asking=asking)
            except redis_errors.MovedError as moved:
                cluster.nodes_manager.move_slot(moved)
                self._changes.note()
                self._draw_map_soon()
                node, asking = _node(cluster, key), False
            except redis_errors.AskError as ask:
                node, asking = _node_at(cluster, ask), True
        return _send(cluster, node, args, options, asking=asking)

    def _to_every_master(
        self, cluster: RedisCluster, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Return the answer of one of them; raise only if none has one."""
        answers = []
        failure: redis_errors.RedisError = redis_errors.ConnectionError("there is no master")
        for node in cluster.get_primaries():
            try:
                answers.append(_send(cluster, node, args, options))
            except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
                failure = error
        if not answers:
            raise failure
        return answers[0]

    def _known_cluster(self) -> RedisCluster:
        return self._cluster or self._map.wait(self._timeout)

    def _draw_map_soon(self) -> None:
        if time.monotonic() - self._drawn_at > MAP_INTERVAL:
            self._map.begin()

    def _draw_map(self) -> RedisCluster:
        try:
            if self._cluster is None:
                # New ones each time: RedisCluster adds to the list, and to the nodes their clients.
                others = [ClusterNode(*each) for each in self._other_nodes]
                self._cluster = self._connect(startup_nodes=others)
            else:
                self._cluster.nodes_manager.initialize(disconnect_startup_nodes_pools=False)
        # The one is no RedisError, the other a cluster that has no slots yet.
        except (redis_errors.RedisClusterException, IndexError) as error:
            raise redis_errors.ConnectionError(str(error)) from error
        finally:
            self._drawn_at = time.monotonic()
        self._changes.note()
        return self._cluster


def _key_of(args: tuple[Any, ...]) -> object:
    """Return the first key of a command; None if it has none."""
    command = str(args[0]).upper()
    if command in _SCRIPTS:
        return args[3] if args[2] else None
    return args[1] if len(args) > 1 and " " not in command else None


def _node(cluster: RedisCluster, key: object) -> ClusterNode:
    try:
        return cast("ClusterNode", cluster.get_node_from_key(key))
    except redis_errors.SlotNotCoveredError as error:
        raise redis_errors.ConnectionError(str(error)) from error


def _node_at(cluster: RedisCluster, ask: redis_errors.AskError) -> ClusterNode:
    node = cluster.get_node(ask.host, ask.port)
    if node is None:
        raise redis_errors.ConnectionError(f"{ask.host}:{ask.port} is a node that is not known yet")
    return cast("ClusterNode", node)


def _send(
    cluster: RedisCluster,
    node: ClusterNode,
    args: tuple[Any, ...],
    options: dict[str, Any],
    *,
    asking: bool = False,
) -> Any:
    # Made now for a node that another has just named: it has none yet.
    redis: Redis = cluster.get_redis_connection(node)
    if not asking:
        return redis.execute_command(*args, **options)
    # On one connection, and in one round trip: the permission is for the next command only.
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*args, **options)
        return pipeline.execute()[1]
