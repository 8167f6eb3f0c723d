-- Payroll, at the home of each tenant. Keys are natural and begin with the tenant, so that nothing here depends on a
-- sequence and rows of two tenants can never meet.

create table employees (
  tenant text not null,
  id text not null,
  department text not null,
  name text not null check (name <> ''),
  iban text not null check (iban <> ''),
  salary_cents bigint not null check (salary_cents > 0),
  primary key (tenant, id)
);

-- A draft becomes approved, by someone, in one transaction, and there is no way back.
create table payroll_runs (
  tenant text not null,
  id text not null,
  status text not null check (status in ('draft', 'approved')),
  total_cents bigint not null check (total_cents > 0),
  approved_by text,
  approved_in uuid,
  primary key (tenant, id),
  check ((status = 'approved') = (approved_by is not null)),
  check ((status = 'approved') = (approved_in is not null))
);

create table payroll_items (
  tenant text not null,
  run_id text not null,
  employee_id text not null,
  amount_cents bigint not null check (amount_cents > 0),
  state text not null check (state in ('draft', 'payable')),
  primary key (tenant, run_id, employee_id),
  foreign key (tenant, run_id) references payroll_runs,
  foreign key (tenant, employee_id) references employees
);

-- Two lines a run: what is owed is an expense. The primary key makes a second approval of a run unstorable.
create table journal_entries (
  tenant text not null,
  run_id text not null,
  account text not null check (account in ('expense:salaries', 'liability:wages')),
  amount_cents bigint not null,
  primary key (tenant, run_id, account),
  foreign key (tenant, run_id) references payroll_runs,
  check (case account when 'expense:salaries' then amount_cents > 0 else amount_cents < 0 end)
);
