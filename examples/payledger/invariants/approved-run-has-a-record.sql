-- name: approved-run-has-a-record
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status, approved_in); treasury(treasury_holds: tenant, run_id, reserved_in); holdfast(committed: transaction_id)
select r.tenant, r.id as run_id, r.approved_in, h.reserved_in
from payroll_runs r
left join treasury_holds h on h.tenant = r.tenant and h.run_id = r.id
left join committed c on c.transaction_id = r.approved_in
where r.status = 'approved' and (c.transaction_id is null or h.reserved_in <> r.approved_in)
