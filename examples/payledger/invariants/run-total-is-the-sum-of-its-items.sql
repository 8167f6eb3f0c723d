-- name: run-total-is-the-sum-of-its-items
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status, total_cents; payroll_items: tenant, run_id, amount_cents)
-- A draft without items pays nobody yet; what is approved pays its items.
select r.tenant, r.id as run_id, r.status, r.total_cents, coalesce(sum(i.amount_cents), 0) as items_cents
from payroll_runs r
left join payroll_items i on i.tenant = r.tenant and i.run_id = r.id
group by r.tenant, r.id, r.status, r.total_cents
having (r.status = 'approved' or count(i.run_id) > 0) and coalesce(sum(i.amount_cents), 0) <> r.total_cents
