-- name: no-effect-delivered-twice
-- severity: critical
-- needs: holdfast(delivery: event_id, name, state)
select d.event_id, d.name, count(*) as deliveries
from delivery d
where d.state = 'delivered'
group by d.event_id, d.name
having count(*) > 1
