"""Fills a database with orders that look lived in: what a relay has after months, made in seconds by SQL."""

import asyncpg

ORDERS = """
WITH numbered AS (
  SELECT n, now() - make_interval(secs => (($2::int - n)::float8 / $2 * $3::float8 * 86400)) AS at
  FROM generate_series(1, $2::int) AS n
), made AS (
  SELECT n, at, $6::text || '-' || n AS external_id,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
      || lpad(to_hex((random() * 4095)::int), 3, '0') || '8' || lpad(to_hex((random() * 4095)::int), 3, '0')
      || lpad(to_hex((n::bigint * 4096 + $4::int) & 281474976710655), 12, '0'))::uuid AS id,
    (ARRAY['talkable', 'voucherify', 'roster', 'influitive'])[1 + (n * 7) % 4] AS source,
    (ARRAY['Ana', 'Ben', 'Chloé', 'Dmitri', 'Eva', 'Farid', 'Grace', 'Hugo', 'Ines', 'Jonas', 'Kim', 'Lena', 'Mia'])
      [1 + (n * 31) % 13] AS given,
    (ARRAY['Diaz', 'Okafor', 'Smith', 'Müller', 'Rossi', 'Nguyen', 'Silva', 'Kowalski', 'Haddad', 'Larsen', 'Ito'])
      [1 + (n * 17) % 11] || ' ' || (n % 9973) AS family,
    CASE WHEN n > $2 - $1::int / 2 OR (n::bigint * half / rest) > ((n - 1)::bigint * half / rest)
      THEN (ARRAY['received', 'placed', 'settled', 'on_hold'])[1 + (n / 3) % 4] ELSE 'closed' END AS state
  FROM numbered, (SELECT $1 - $1 / 2 AS half, greatest($2 - $1 / 2, 1) AS rest) AS share
)
INSERT INTO orders (id, po_number, source, external_id, delivery_id, state, step, outcome, hold_reason, held_from,
  reward, route, vendor, plan, vendor_order_id, vendor_status, party, due_at, callback_token, created_at, updated_at)
SELECT id, 'RR-' || upper(right(replace(id::text, '-', ''), 16)), source, external_id, id, state,
  CASE state WHEN 'received' THEN 'place' WHEN 'placed' THEN 'check' WHEN 'settled' THEN 'close' END,
  CASE WHEN state IN ('settled', 'closed') THEN
    CASE WHEN n % 40 = 0 THEN 'refused' WHEN n % 97 = 0 THEN 'cancelled' ELSE 'fulfilled' END END,
  CASE WHEN state = 'on_hold' THEN
    'no route matches this reward of ' || source || ' (sku-' || n % 7 || '); add one to [[routes]] and release' END,
  CASE WHEN state = 'on_hold' THEN 'received' END,
  jsonb_build_object('source', source, 'external_id', external_id, 'occurred_at', at, 'message', null,
    'reference', '{}'::jsonb, 'recipient', jsonb_build_object('name', given || ' ' || family,
      'email', lower(given) || '.' || n || '@example.com', 'phone', null,
      'address', jsonb_build_object('line1', n || ' Main Street', 'line2', null, 'city', 'Ames', 'state', 'IA',
        'postal_code', '50010', 'country', 'US')),
    'items', jsonb_build_array(jsonb_build_object('sku', 'star-th-bottle', 'name', 'Star Thermal Bottle',
      'quantity', 1, 'value', '25', 'currency', 'USD'))),
  'parcels', 'gcp', jsonb_build_object('route', 'parcels', 'vendor', 'gcp', 'delivery', 'PhysicalShipment',
    'lines', jsonb_build_array(jsonb_build_object('product', 'TUMBLER', 'value', '25', 'quantity', 1))),
  CASE WHEN state IN ('placed', 'settled', 'closed') THEN 'G-' || external_id END,
  CASE WHEN state IN ('settled', 'closed') THEN 'Completed' END,
  CASE WHEN state IN ('received', 'placed') THEN 'vendor:gcp' WHEN state = 'settled' THEN 'source:' || source END,
  CASE WHEN state IN ('received', 'placed', 'settled') THEN now() + make_interval(secs => $5::float8 + n % 3600) END,
  md5(id::text), at,
  CASE WHEN state = 'closed' THEN at + interval '40 seconds' ELSE now() - make_interval(secs => n % 86400) END
FROM made
"""
EVENTS = """
INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
SELECT o.id, o.created_at + make_interval(secs => e.after), e.was, e.state, e.actor, e.reason FROM orders o
JOIN (VALUES (1, 0.0, NULL, 'received', 'source:roster', 'accepted; route ''parcels'''),
  (2, 0.3, 'received', 'placed', 'worker', 'placed with vendor gcp'),
  (3, 30.0, 'placed', 'settled', 'worker', 'fulfilled (Completed)'),
  (4, 31.0, 'settled', 'closed', 'worker', 'the platform has been told')) AS e(place, after, was, state, actor, reason)
  ON o.state = 'closed' OR e.place = 1
WHERE o.external_id LIKE $1::text || '-%' ORDER BY o.id, e.place
"""
CALLS = """
INSERT INTO calls (order_id, claim, party, purpose, key, started_at, finished_at, verdict, status, answer)
SELECT o.id, o.id, c.party, c.purpose, o.po_number, o.created_at + make_interval(secs => c.after),
  o.created_at + make_interval(secs => c.after + 0.08), 'ok', 200, '{"Status": "Completed"}'
FROM orders o CROSS JOIN (VALUES (1, 0.2, 'vendor:gcp', 'place'), (2, 29.9, 'vendor:gcp', 'check'),
  (3, 30.5, 'source:roster', 'close')) AS c(place, after, party, purpose)
WHERE o.state = 'closed' AND o.external_id LIKE $1::text || '-%' ORDER BY o.id, c.place
"""
DELIVERIES = """
INSERT INTO deliveries (id, source, received_at, via, content_type, headers, body, verdict, external_id, order_id)
SELECT id, source, created_at, 'webhook', 'application/json', '{"user-agent": "filler"}',
  convert_to(reward::text, 'UTF8'), 'accepted', external_id, id
FROM orders WHERE external_id LIKE $1::text || '-%'
"""


TROUBLE = """
INSERT INTO deliveries (id, source, received_at, via, content_type, headers, body, verdict, reason, external_id)
SELECT made.id, source, at, 'webhook', 'application/json', '{"user-agent": "filler"}', '{}', verdict,
  'of the filling: ' || verdict, CASE WHEN verdict = 'duplicate' THEN external_id END
FROM (SELECT (left(id::text, 14) || '7' || substr(id::text, 16, 3) || '-b' || substr(id::text, 21))::uuid AS id, source,
    created_at AS at, external_id, row_number() OVER (ORDER BY id) AS n FROM orders
    WHERE external_id LIKE $1::text || '-%') AS made,
  LATERAL (SELECT CASE WHEN n % 20 = 1 THEN 'duplicate' WHEN n % 150 = 2 THEN 'rejected'
    WHEN n % 400 = 3 THEN 'quarantined' WHEN n % 100 = 5 THEN 'informational' END AS verdict) AS decided
WHERE verdict IS NOT NULL
"""


async def fill(url: str, closed: int, still_open: int, *, days: float = 30.0, run: str = "f1") -> None:
    """Add orders of the last `days`, with their deliveries, events and calls; open ones are due in two hours or more.

    Half of the open ones are the newest, the others lie scattered among the closed. One delivery in twelve beside the
    orders' own is a duplicate, rejected, quarantined or informational.

    `run` marks their external ids; one run fills a database once.
    """
    connection = await asyncpg.connect(url, timeout=30)
    try:
        salt = sum(run.encode()) % 4096
        await connection.execute(ORDERS, still_open, closed + still_open, days, salt, 7200.0, run)
        for statement in (DELIVERIES, TROUBLE, EVENTS, CALLS):
            await connection.execute(statement, run)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
