-- name: no-hold-without-a-run
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status); treasury(treasury_holds: tenant, run_id, status)
select h.tenant, h.run_id
from treasury_holds h
left join payroll_runs r on r.tenant = h.tenant and r.id = h.run_id and r.status = 'approved'
where h.status = 'active' and r.id is null
