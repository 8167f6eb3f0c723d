-- name: journal-balances
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id, status, total_cents; journal_entries: tenant, run_id, account, amount_cents)
select r.tenant, r.id as run_id, r.status, coalesce(sum(j.amount_cents), 0) as balance_cents
from payroll_runs r
left join journal_entries j on j.tenant = r.tenant and j.run_id = r.id
group by r.tenant, r.id, r.status, r.total_cents
having coalesce(sum(j.amount_cents), 0) <> 0
    or coalesce(sum(j.amount_cents) filter (where j.amount_cents > 0), 0) <> case r.status when 'approved' then r.total_cents else 0 end
