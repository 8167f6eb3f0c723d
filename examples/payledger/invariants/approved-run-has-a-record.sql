-- name: approved-run-has-a-record
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status); treasury(treasury_holds: tenant, run_id, reserved_in); holdfast(committed: transaction_id, tenant, action, subject)
-- Exactly one committed transaction approved it, and its hold comes from that one.
select r.tenant, r.id as run_id, count(c.transaction_id) as approvals, h.reserved_in
from payroll_runs r
left join committed c on c.tenant = r.tenant and c.subject = r.id and c.action = 'payroll.approve'
left join treasury_holds h on h.tenant = r.tenant and h.run_id = r.id
where r.status = 'approved'
group by r.tenant, r.id, h.reserved_in
having count(c.transaction_id) <> 1 or bool_or(c.transaction_id <> h.reserved_in)
