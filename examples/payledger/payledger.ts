import type { Fleet, ReadLevel, Served, Transaction, TransactOutcome } from 'holdfast'
import { HoldfastError } from 'holdfast'

/**
 * PayLedger: what a payroll service does, on Holdfast's public library.
 *
 * Money is `bigint` cents. What a transaction returns crosses JSON when an idempotency key replays it, so cents are
 * decimal strings there.
 */
export interface Run {
  readonly tenant: string
  readonly id: string
  readonly status: 'draft' | 'approved'
  readonly totalCents: bigint
  readonly approvedBy: string | null
}

/** Every tenant pays from one account. */
export const account = 'operating'

export interface Employee {
  readonly id: string
  readonly department: string
  readonly name: string
  readonly iban: string
  readonly salaryCents: bigint
}

/** A tenant's first transaction: its people at its home, its cash at the treasury. */
export async function onboard(
  fleet: Fleet,
  request: { tenant: string; employees: readonly Employee[]; balanceCents: bigint; actor: string },
): Promise<TransactOutcome<null>> {
  const { tenant, employees, balanceCents, actor } = request
  return fleet.transact({ tenant, action: 'tenant.onboard', subject: tenant, actor }, async (tx) => {
    await tx.query(
      'payroll',
      `insert into employees (tenant, id, department, name, iban, salary_cents)
       select $1, e.id, e.department, e.name, e.iban, e.salary_cents
       from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
         as e(id, department, name, iban, salary_cents)`,
      [
        tenant,
        employees.map((employee) => employee.id),
        employees.map((employee) => employee.department),
        employees.map((employee) => employee.name),
        employees.map((employee) => employee.iban),
        employees.map((employee) => employee.salaryCents.toString()),
      ],
    )
    tx.batch('treasury', [
      [
        'insert into treasury_accounts (tenant, id, balance_cents) values ($1, $2, $3)',
        [tenant, account, balanceCents.toString()],
      ],
    ])
    return null
  })
}

/**
 * A draft of what the people of a department get, or all people. One statement, since each sees what was committed before it:
 * a raise between two of them would be in the items and not in the total.
 */
export async function createRun(
  fleet: Fleet,
  request: { tenant: string; run: string; actor: string; department?: string; session?: string },
): Promise<TransactOutcome<{ totalCents: string }>> {
  const { tenant, run, actor, department, session } = request
  return fleet.transact({ tenant, action: 'payroll.draft', subject: run, actor, session }, async (tx) => {
    const { rows } = await tx.query<{ total_cents: string }>(
      'payroll',
      `with run as (
         insert into payroll_runs (tenant, id, status, total_cents)
         select $1, $2, 'draft', sum(e.salary_cents) from employees e
         where e.tenant = $1 and ($3::text is null or e.department = $3)
         returning total_cents
       ), items as (
         insert into payroll_items (tenant, run_id, employee_id, amount_cents, state)
         select $1, $2, e.id, e.salary_cents, 'draft' from employees e
         where e.tenant = $1 and ($3::text is null or e.department = $3)
       )
       select total_cents from run`,
      [tenant, run, department ?? null],
    )
    return { totalCents: only(rows).total_cents }
  })
}

export interface ApproveRequest {
  readonly tenant: string
  readonly run: string
  readonly actor: string
  /** One for each click: the second arrival of the same click gets the first one's answer. */
  readonly idempotencyKey?: string | undefined
  readonly session?: string | undefined
}

export interface Approval {
  readonly run: string
  readonly totalCents: string
}

/**
 * Approves a run and reserves its total, both or neither. The treasury's part is not waited for: it travels with the
 * prepare, so that an approval costs one round trip between the home and the treasury.
 *
 * Throws `transaction_refused` when there is no such draft, and `constraint_violated` when the account does not cover it. A draft
 * that appears meanwhile is a `serialization_failure` (safe), which runs the function again.
 */
export async function approveRun(fleet: Fleet, request: ApproveRequest): Promise<TransactOutcome<Approval>> {
  const { tenant, run, actor, idempotencyKey, session } = request
  return fleet.transact(
    { tenant, action: 'payroll.approve', subject: run, actor, idempotencyKey, session },
    async (tx) => {
      const { rows } = await tx.query<{ total_cents: string }>(
        'payroll',
        `update payroll_runs set status = 'approved', approved_by = $3, approved_in = $4
         where tenant = $1 and id = $2 and status = 'draft' returning total_cents`,
        [tenant, run, actor, tx.transactionId],
      )
      const total = rows[0]?.total_cents
      if (total === undefined) throw await whyNotApproved(tx, tenant, run)
      tx.batch('payroll', [
        [
          `insert into journal_entries (tenant, run_id, account, amount_cents)
           values ($1, $2, 'expense:salaries', $3::bigint), ($1, $2, 'liability:wages', -$3::bigint)`,
          [tenant, run, total],
        ],
        [`update payroll_items set state = 'payable' where tenant = $1 and run_id = $2`, [tenant, run]],
      ])
      tx.batch('treasury', [
        [
          `insert into treasury_holds (tenant, run_id, account_id, amount_cents, status, reserved_in)
           values ($1, $2, $3, $4, 'active', $5)`,
          [tenant, run, account, total, tx.transactionId],
        ],
        [
          'update treasury_accounts set reserved_cents = reserved_cents + $3 where tenant = $1 and id = $2',
          [tenant, account, total],
          { rows: 1 },
        ],
      ])
      tx.emit('payroll.approved', { run, totalCents: total })
      return { run, totalCents: total }
    },
  )
}

async function whyNotApproved(tx: Transaction, tenant: string, run: string): Promise<HoldfastError> {
  const { rows } = await tx.query<{ approved_by: string | null; approved_in: string | null }>(
    'payroll',
    'select approved_by, approved_in from payroll_runs where tenant = $1 and id = $2',
    [tenant, run],
  )
  const known = rows[0]
  if (known === undefined) {
    return new HoldfastError('transaction_refused', `tenant ${tenant} has no run ${run}`, { detail: { tenant, run } })
  }
  if (known.approved_in === null) {
    return new HoldfastError(
      'serialization_failure',
      `run ${run} of tenant ${tenant} appeared only while it was approved`,
      {
        hint: 'it is a draft by now: approve it again',
        detail: { tenant, run },
      },
    )
  }
  return new HoldfastError('transaction_refused', `run ${run} was approved before, by ${known.approved_by}`, {
    hint: `see transaction ${known.approved_in}`,
    detail: { tenant, run, approvedIn: known.approved_in },
  })
}

export interface ReadRunRequest {
  readonly tenant: string
  readonly run: string
  readonly session?: string | undefined
  readonly level?: ReadLevel | undefined
  readonly waitMs?: number | undefined
}

export interface RunAnswer {
  /** Null when the tenant has no such run. */
  readonly run: Run | null
  readonly session: string
  readonly served: readonly Served[]
}

/** A run as the nearest node shows it that can prove the session. */
export async function readRun(fleet: Fleet, request: ReadRunRequest): Promise<RunAnswer> {
  const { tenant, run, session, level, waitMs } = request
  const answer = await fleet.read({ tenant, session, level, waitMs, route: 'payledger.run' }, (read) =>
    read.query<RunRow>(
      'payroll',
      'select tenant, id, status, total_cents, approved_by from payroll_runs where tenant = $1 and id = $2',
      [tenant, run],
    ),
  )
  const row = answer.value.rows[0]
  return { run: row === undefined ? null : runFromRow(row), session: answer.session, served: answer.served }
}

interface RunRow {
  readonly tenant: string
  readonly id: string
  readonly status: 'draft' | 'approved'
  readonly total_cents: string
  readonly approved_by: string | null
}

function runFromRow(row: RunRow): Run {
  return {
    tenant: row.tenant,
    id: row.id,
    status: row.status,
    totalCents: BigInt(row.total_cents),
    approvedBy: row.approved_by,
  }
}

export interface PlannedRun {
  readonly tenant: string
  readonly run: string
  readonly department: string
}

/** The close of a month: drafts and approves one run after the other, as payroll managers do. */
export async function* closeTraffic(
  fleet: Fleet,
  plan: Iterable<PlannedRun>,
  actor: string,
): AsyncGenerator<PlannedRun & { readonly approval: TransactOutcome<Approval> }> {
  for (const planned of plan) {
    const draft = await createRun(fleet, { ...planned, actor })
    const approval = await approveRun(fleet, { ...planned, actor, session: draft.session })
    yield { ...planned, approval }
  }
}

function only<T>(rows: readonly T[]): T {
  const [row] = rows
  if (row === undefined || rows.length !== 1) throw new Error(`expected one row, got ${rows.length}`)
  return row
}
