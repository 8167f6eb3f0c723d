import { eq, sql } from 'drizzle-orm'
import { bigint, pgTable, text } from 'drizzle-orm/pg-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createRun } from '../../examples/payledger/payledger.ts'
import { drizzleOn } from '../../src/adapters/drizzle.ts'
import { kyselyOn } from '../../src/adapters/kysely.ts'
import { failureIn, HoldfastError } from '../../src/base/errors.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** Kysely and Drizzle as their users have them, on transactions and reads of a real fleet. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const action = { tenant, action: 'payroll.build', actor }

interface PayrollTables {
  employees: { tenant: string; id: string; department: string; name: string; iban: string; salary_cents: string }
  payroll_runs: { tenant: string; id: string; status: string; total_cents: string; approved_by: string | null }
}

const employees = pgTable('employees', {
  tenant: text('tenant').notNull(),
  id: text('id').notNull(),
  department: text('department').notNull(),
  name: text('name').notNull(),
  iban: text('iban').notNull(),
  salaryCents: bigint('salary_cents', { mode: 'bigint' }).notNull(),
})

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const hire = (id: string) => ({ tenant, id, department: 'hq', name: `Name ${id}`, iban: `IBAN-${id}` })

describe('Kysely', () => {
  test('writes in a transaction and reads in a session what it wrote', async () => {
    const { value, session } = await gateway.transact({ ...action, subject: 'kysely' }, async (tx) => {
      const payroll = kyselyOn<PayrollTables>(tx, 'payroll')
      await payroll
        .insertInto('employees')
        .values({ ...hire('k-1'), salary_cents: '1000' })
        .execute()
      const raised = await payroll
        .updateTable('employees')
        .set({ salary_cents: '1100' })
        .where('id', '=', 'k-1')
        .executeTakeFirst()
      return raised.numUpdatedRows
    })
    expect(value).toBe(1n)
    const { value: rows, served } = await gateway.read({ tenant, session }, (read) =>
      kyselyOn<PayrollTables>(read, 'payroll')
        .selectFrom('employees')
        .select(['name', 'salary_cents'])
        .where('id', '=', 'k-1')
        .execute(),
    )
    expect(rows).toEqual([{ name: 'Name k-1', salary_cents: '1100' }])
    expect(served).toHaveLength(1)
  })

  test('runs on a snapshot over several shards', async () => {
    await createRun(gateway, { tenant, run: 'kysely', actor, department: 'hq' })
    const { value } = await gateway.snapshot({ tenant, domains: ['payroll', 'treasury'] }, async (read) => {
      const runs = await kyselyOn<PayrollTables>(read, 'payroll').selectFrom('payroll_runs').select('id').execute()
      const holds = await read.query('treasury', 'select count(*)::integer as holds from treasury_holds')
      return { runs, holds: holds.rows }
    })
    expect(value).toMatchObject({ runs: [{ id: 'kysely' }], holds: [{ holds: expect.any(Number) }] })
  })

  test('B2: a transaction of its own is refused, and nothing is written', async () => {
    const own = gateway.transact({ ...action, subject: 'kysely' }, async (tx) => {
      const payroll = kyselyOn<PayrollTables>(tx, 'payroll')
      await payroll
        .insertInto('employees')
        .values({ ...hire('k-2'), salary_cents: '1' })
        .execute()
      await payroll.transaction().execute((inner) => inner.selectFrom('employees').selectAll().execute())
    })
    await expect(own).rejects.toMatchObject({ code: 'statement_refused' })
    const { value } = await gateway.read({ tenant, level: 'primary' }, (read) =>
      kyselyOn<PayrollTables>(read, 'payroll').selectFrom('employees').selectAll().where('id', '=', 'k-2').execute(),
    )
    expect(value).toEqual([])
  })

  test('B3: a violated constraint is told as such', async () => {
    const twice = gateway.transact({ ...action, subject: 'kysely' }, (tx) =>
      kyselyOn<PayrollTables>(tx, 'payroll')
        .insertInto('employees')
        .values({ ...hire('k-1'), salary_cents: '1' })
        .execute(),
    )
    await expect(twice).rejects.toMatchObject({ code: 'constraint_violated', retry: 'never' })
  })
})

describe('Drizzle', () => {
  test('writes in a transaction and reads in a session what it wrote', async () => {
    const { value, session } = await gateway.transact({ ...action, subject: 'drizzle' }, async (tx) => {
      const payroll = drizzleOn(tx, 'payroll')
      const made = await payroll
        .insert(employees)
        .values({ ...hire('d-1'), salaryCents: 2_000n })
        .returning({ id: employees.id })
      await payroll
        .update(employees)
        .set({ salaryCents: sql`${employees.salaryCents} + 200` })
        .where(eq(employees.id, 'd-1'))
      return made
    })
    expect(value).toEqual([{ id: 'd-1' }])
    const { value: rows } = await gateway.read({ tenant, session }, (read) =>
      drizzleOn(read, 'payroll')
        .select({ name: employees.name, salary: employees.salaryCents })
        .from(employees)
        .where(eq(employees.id, 'd-1')),
    )
    expect(rows).toEqual([{ name: 'Name d-1', salary: 2_200n }])
  })

  test('its relational queries run on a schema', async () => {
    const { value } = await gateway.read({ tenant, level: 'primary' }, (read) =>
      drizzleOn(read, 'payroll', { schema: { employees } }).query.employees.findFirst({
        columns: { name: true },
        where: eq(employees.id, 'd-1'),
      }),
    )
    expect(value).toEqual({ name: 'Name d-1' })
  })

  test('B2: a transaction of its own is refused', async () => {
    const own = gateway.transact({ ...action, subject: 'drizzle' }, (tx) =>
      drizzleOn(tx, 'payroll').transaction((inner) => inner.select().from(employees)),
    )
    expect(failureIn(await own.catch((error: unknown) => error))?.code).toBe('statement_refused')
  })

  test('B3: what a statement fails with is the cause of its error', async () => {
    const twice = gateway.transact({ ...action, subject: 'drizzle' }, (tx) =>
      drizzleOn(tx, 'payroll')
        .insert(employees)
        .values({ ...hire('d-1'), salaryCents: 1n }),
    )
    const error = await twice.catch((thrown: unknown) => thrown)
    expect(error).not.toBeInstanceOf(HoldfastError)
    expect(failureIn(error)).toMatchObject({ code: 'constraint_violated', retry: 'never' })
  })

  test('a serialization failure inside of it is tried again', async () => {
    let runs = 0
    await gateway.transact({ ...action, subject: 'drizzle', isolation: 'serializable' }, async (tx) => {
      runs += 1
      const payroll = drizzleOn(tx, 'payroll')
      const [one] = await payroll
        .select({ salary: employees.salaryCents })
        .from(employees)
        .where(eq(employees.id, 'd-1'))
      if (runs === 1) {
        await gateway.transact({ ...action, subject: 'between' }, (other) =>
          other.query('payroll', "update employees set salary_cents = salary_cents + 1 where id = 'd-1'"),
        )
      }
      await payroll
        .update(employees)
        .set({ salaryCents: (one?.salary ?? 0n) + 10n })
        .where(eq(employees.id, 'd-1'))
    })
    expect(runs).toBe(2)
    const { value } = await gateway.read({ tenant, level: 'primary' }, (read) =>
      read.query<{ salary: string }>('payroll', "select salary_cents::text as salary from employees where id = 'd-1'"),
    )
    expect(value.rows).toEqual([{ salary: '2211' }])
  })
})
