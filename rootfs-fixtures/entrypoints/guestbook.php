<?php
// ?cmd=set&key=K&value=V writes to the leader, ?cmd=get&key=K reads from a follower. GET_HOSTS_FROM says whether their
// addresses come from names (dns) or from the variables of their services (env).
header('Content-Type: application/json');
$host = function (string $service): string {
    if (getenv('GET_HOSTS_FROM') !== 'env') {
        return $service;
    }
    return getenv(strtoupper(str_replace('-', '_', $service)) . '_SERVICE_HOST');
};
try {
    $set = ($_GET['cmd'] ?? 'get') === 'set';
    $redis = new Redis();
    $redis->connect($host($set ? 'redis-leader' : 'redis-follower'), 6379, 5);
    $key = $_GET['key'] ?? 'guestbook';
    if ($set) {
        $redis->set($key, $_GET['value'] ?? '');
        echo json_encode(['message' => 'Updated']);
    } else {
        echo json_encode(['data' => (string) $redis->get($key)]);
    }
} catch (RedisException $error) {
    http_response_code(500);
    echo json_encode(['error' => $error->getMessage()]);
}
