-- name: approved-run-has-one-hold
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status, total_cents); treasury(treasury_holds: tenant, run_id, status, amount_cents)
select r.tenant, r.id as run_id, r.total_cents, count(h.run_id) as holds, sum(h.amount_cents) as held_cents
from payroll_runs r
left join treasury_holds h on h.tenant = r.tenant and h.run_id = r.id and h.status = 'active'
where r.status = 'approved'
group by r.tenant, r.id, r.total_cents
having count(h.run_id) <> 1 or sum(h.amount_cents) <> r.total_cents
