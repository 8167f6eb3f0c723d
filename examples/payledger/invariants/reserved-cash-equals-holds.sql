-- name: reserved-cash-equals-holds
-- severity: critical
-- needs: treasury(treasury_accounts: tenant, id, reserved_cents; treasury_holds: tenant, account_id, status, amount_cents)
select a.tenant, a.id as account_id, a.reserved_cents, coalesce(sum(h.amount_cents), 0) as held_cents
from treasury_accounts a
left join treasury_holds h on h.tenant = a.tenant and h.account_id = a.id and h.status = 'active'
group by a.tenant, a.id, a.reserved_cents
having a.reserved_cents <> coalesce(sum(h.amount_cents), 0)
