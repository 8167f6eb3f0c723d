import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import {
  home,
  history,
  insert,
  payroll,
  remove,
  transactionId,
  unattributed,
  update,
} from '../../test/support/redo-values.ts'
import type { RedoTransaction, RelationShape, RowImage } from '../archive/redo-transaction.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { RedoStep } from './cut.ts'
import { redo } from './redo.ts'
import * as store from './restore-store.ts'
import { moveSequences } from './sequences.ts'

const relation = 'public.kinds'
const columns = [
  ['id', 'bigint generated always as identity primary key', '7'],
  ['truth', 'boolean', 't'],
  ['padded', 'char(6)', 'ab    '],
  ['address', 'inet', '192.168.0.1'],
  ['exact', 'numeric', '1.00'],
  ['rough', 'double precision', '0.1'],
  ['document', 'json', '{"b":1,  "a":2}'],
  ['bytes', 'bytea', '\\x00ff'],
  ['list', 'text[]', '{"a b",NULL}'],
  ['mood', 'mood', 'wild'],
  ['moment', 'timestamptz', '2026-04-02 10:00:00.12+00'],
  ['span', 'interval', '1 mon 02:00:00'],
  ['markup', 'xml', '<a/>'],
  ['point', 'point', '(1,2)'],
  ['nothing', 'text', null],
] as const
const row: RowImage = Object.fromEntries(columns.map(([name, , value]) => [name, value]))
const shape = (table: string, primaryKey: string[]): RelationShape => ({
  schema: 'public',
  table,
  columns: [{ name: 'id', type: 'bigint', sequence: `public.${table}_id_seq` }],
  replicaIdentity: 'full',
  primaryKey,
  foreignKeys: [],
})
const shapes = new Map([[relation, shape('kinds', ['id'])]])

describe('redo on a server', () => {
  let database: FreshDatabase
  let admin: Connection

  beforeAll(async () => {
    database = await freshDatabase()
    const founder = await Connection.connect(database.target(), 5_000)
    await founder.script(`create type mood as enum ('calm', 'wild');
      create table kinds (${columns.map(([name, type]) => `${name} ${type}`).join(', ')},
        doubled numeric generated always as (exact * 2) stored);
      create table keyless (what text);
      create sequence invoice_seq maxvalue 1000;
      create table invoices (id text primary key default 'INV-' || nextval('invoice_seq'),
        amount numeric(6, 2) default nextval('invoice_seq'), mark bytea default int4send(nextval('invoice_seq')::int));
      create table parents (id bigint primary key);
      create table children (id bigint primary key, a bigint references parents, b bigint references parents)`)
    founder.release()
  })

  beforeEach(async () => {
    admin = await Connection.connect(database.target(), 5_000)
    await admin.script(
      `truncate kinds, keyless, invoices, parents, children; drop schema if exists holdfast_restore cascade`,
    )
  })

  afterEach(() => admin.release())
  afterAll(() => database.drop())

  function steps(commits: Parameters<typeof history>[1]): RedoStep[] {
    return history(payroll, commits).transactions.map((transaction: RedoTransaction) => ({
      transaction,
      changes: transaction.changes,
    }))
  }

  /** A stream of these. */
  const seen = (all: readonly RedoStep[]) =>
    async function* () {
      for (const { transaction } of all) yield transaction
    }

  async function kinds(): Promise<Record<string, unknown>[]> {
    const list = columns.map(([name]) => `format('%s', ${name}) as ${name}`).join(', ')
    return (await admin.query(`select ${list}, doubled::text from public.kinds`)).rows
  }

  test('R4: values of every type come back as they were, and are recognised as they were', async () => {
    const changed = { exact: '2.50', truth: 'f', document: '{}', padded: null }
    await redo(
      admin,
      steps([home(1, 1n, [insert(relation, row)]), home(2, 2n, [update(relation, row, changed)])]),
      shapes,
    )
    expect(await kinds()).toEqual([{ ...row, ...changed, padded: '', nothing: '', doubled: '5.00' }])
    expect(
      await redo(
        admin,
        steps([unattributed(0n, []), unattributed(0n, []), home(3, 3n, [remove(relation, { ...row, ...changed })])]),
        shapes,
      ),
    ).toMatchObject({ transactions: 1 })
    expect(await kinds()).toEqual([])
  })

  test.each(columns.map(([name]) => name).filter((name) => name !== 'id'))(
    'R4: a row that differs in %s alone is not as it was: the redo stops, and nothing of that transaction is applied',
    async (name) => {
      await redo(admin, steps([home(1, 1n, [insert(relation, row)])]), shapes)
      const others: RowImage = {
        truth: 'f',
        padded: 'abc   ',
        address: '192.168.0.1/31',
        exact: '1.0',
        rough: '0.2',
        document: '{"b":1, "a":2}',
        bytes: '\\x00',
        list: '{}',
        mood: 'calm',
        moment: '2026-04-02 10:00:00.13+00',
        span: '00:00:00',
        markup: '<b/>',
        point: '(1,3)',
        nothing: '',
      }
      const before = { ...row, [name]: others[name] ?? null }
      const bad = steps([
        unattributed(0n, []),
        home(2, 2n, [insert(relation, { ...row, id: '8' }), remove(relation, before)]),
      ])
      await expect(redo(admin, bad, shapes)).rejects.toMatchObject({
        code: 'redo_conflict',
        message: expect.stringContaining('is not as it was before'),
      })
      expect(await kinds()).toHaveLength(1)
    },
  )

  test('R4: a redo that is run again, with more at the end, applies only what is new', async () => {
    const all = steps([
      unattributed(0n, [insert('public.keyless', { what: 'a' })]),
      unattributed(0n, [insert('public.keyless', { what: 'b' })]),
    ])
    expect(await redo(admin, all.slice(0, 1), new Map())).toMatchObject({ transactions: 1 })
    expect(await redo(admin, all, new Map())).toMatchObject({ transactions: 1 })
    expect(await redo(admin, all, new Map())).toMatchObject({ transactions: 0 })
    expect((await admin.query('select what from public.keyless order by what')).rows).toEqual([
      { what: 'a' },
      { what: 'b' },
    ])
  })

  test('HZ-R3: a transaction that was restored physically is not redone, whatever its position', async () => {
    const logged = {
      transaction_id: transactionId(9),
      commit_timestamp: '9',
      xid: '77',
      tenant: 'globex-eu',
      action: 'a',
      subject: 's',
      actor: 'm',
      placements: '{}',
      epoch: '1',
      participants: '{}',
    }
    await redo(
      admin,
      steps([home(9, 9n, [insert('holdfast.commit_log', logged), insert('public.keyless', { what: 'x' })])]),
      new Map(),
    )
    await store.dropMarkers(admin)
    expect(await redo(admin, steps([home(9, 9n, [insert('public.keyless', { what: 'x' })])]), new Map())).toMatchObject(
      { transactions: 0 },
    )
    expect(await store.readThere(admin, [transactionId(8), transactionId(9)])).toEqual(new Set([transactionId(9)]))
  })

  test('K6: a key that was used, collected and used again is redone, and stands for its later use', async () => {
    const use = (number: number) => ({
      tenant: 'globex-eu',
      key: 'approve-1',
      request_hash: `\\x0${number}`,
      transaction_id: transactionId(number),
      value: null,
      created_at: `2026-04-0${number} 10:00:00+00`,
    })
    const used = (number: number) => [
      insert('holdfast.idempotency', use(number)),
      update('holdfast.idempotency', use(number), { value: `${number}` }),
    ]
    const collected = {
      identity: { kind: 'platform', after: 1n as Hlc } as const,
      changes: [remove('holdfast.idempotency', { ...use(1), value: '1' })],
    }
    await redo(admin, steps([home(1, 1n, used(1)), collected, home(2, 2n, used(2))]), new Map())
    const { rows } = await admin.query('select transaction_id::text as id, value from holdfast.idempotency')
    expect(rows).toEqual([{ id: transactionId(2), value: 2 }])
  })

  test('R4: steps are applied while they come: no more than a stretch of them is held', async () => {
    const all = 3_000
    let most = 0
    async function* coming() {
      const [step] = steps([unattributed(0n, [insert('public.keyless', { what: 'x' })])])
      if (step === undefined) throw new Error('a commit makes a step')
      for (let number = 0; number < all; number++) {
        if (number % 100 === 99) {
          const { rows } = await admin.query<{ there: number }>('select count(*)::int as there from public.keyless')
          most = Math.max(most, number - (rows[0]?.there ?? 0))
        }
        yield { ...step, transaction: { ...step.transaction, commitLsn: BigInt(1_000 + number) as Lsn } }
      }
    }
    expect(await redo(admin, coming(), new Map())).toEqual({ transactions: all, isUpgrade: false })
    expect(most).toBeLessThan(1_000)
    expect(await redo(admin, coming(), new Map())).toEqual({ transactions: 0, isUpgrade: false })
  })

  test('one of several equal rows without a key is removed, not all', async () => {
    const twice = [insert('public.keyless', { what: 'x' }), insert('public.keyless', { what: 'x' })]
    await redo(admin, steps([unattributed(0n, [...twice, remove('public.keyless', { what: 'x' })])]), new Map())
    expect((await admin.query('select what from public.keyless')).rows).toEqual([{ what: 'x' }])
  })

  test('a row that refers to nothing is let in, and found afterwards', async () => {
    await redo(
      admin,
      steps([
        unattributed(0n, [
          insert('public.parents', { id: '1' }),
          insert('public.children', { id: '1', a: '1', b: null }),
        ]),
        unattributed(0n, [insert('public.children', { id: '2', a: '1', b: '5' })]),
      ]),
      new Map(),
    )
    expect(await store.findBrokenReferences(admin)).toEqual([
      { constraint: 'public.children children_b_fkey', rows: 1 },
    ])
  })

  test('HZ-R1: a sequence moves past everything that its column has shown, and never back', async () => {
    const all = steps([home(1, 1n, [insert(relation, row)]), home(2, 2n, [insert(relation, { ...row, id: '41' })])])
    await redo(admin, all.slice(0, 1), shapes)
    await moveSequences(admin, seen(all), shapes)
    const next = () => admin.query<{ next: string }>(`select nextval('public.kinds_id_seq') as next`)
    expect((await next()).rows).toEqual([{ next: '42' }])
    await moveSequences(admin, seen([]), shapes)
    expect((await next()).rows).toEqual([{ next: '43' }])
  })

  test('HZ-R1: a sequence that nobody drew from moves past the one row that was redone', async () => {
    await admin.query(`select setval('public.kinds_id_seq', 1, false)`)
    await redo(admin, steps([home(1, 1n, [insert(relation, { ...row, id: '1' })])]), shapes)
    await moveSequences(admin, seen([]), shapes)
    const { rows } = await admin.query(`insert into public.kinds (moment) values (now()) returning id::text`)
    expect(rows).toEqual([{ id: '2' }])
  })

  describe('HZ-R1: what a sequence has drawn is read from', () => {
    const drawingShapes = (...names: string[]) =>
      new Map([
        [
          'public.invoices',
          {
            ...shape('invoices', ['id']),
            columns: names.map((name) => ({ name, type: 'whatever', sequence: 'public.invoice_seq' })),
          },
        ],
      ])
    const next = async () =>
      (await admin.query<{ next: string }>(`select nextval('public.invoice_seq') as next`)).rows[0]?.next
    const invoice = (id: string, amount: string) => insert('public.invoices', { id, amount, mark: null })

    beforeEach(() => admin.query(`select setval('public.invoice_seq', 1, false)`))

    test('the digits that a text ends with, and none that the sequence cannot draw', async () => {
      const all = steps([
        unattributed(0n, [invoice('INV-0007', '1.00')]),
        unattributed(0n, [invoice('imported-5000000000000000000000', '1.00'), invoice('by hand', '1.00')]),
        unattributed(0n, [invoice('INV-12', '1.00')]),
      ])
      await redo(admin, all.slice(0, 2), new Map())
      expect(await moveSequences(admin, seen([]), drawingShapes('id'))).toEqual([])
      expect(await next()).toBe('8')
      expect(await moveSequences(admin, seen(all), drawingShapes('id'))).toEqual([])
      expect(await next()).toBe('13')
    })

    test('a numeric of any scale', async () => {
      const all = steps([
        unattributed(0n, [invoice('a', '7.00'), invoice('b', '2000.00')]),
        unattributed(0n, [invoice('c', '9.00')]),
      ])
      await redo(admin, all.slice(0, 1), new Map())
      await moveSequences(admin, seen([]), drawingShapes('amount'))
      expect(await next()).toBe('8')
      await moveSequences(admin, seen(all), drawingShapes('amount'))
      expect(await next()).toBe('10')
    })

    test('no value of another type: the column is told, and its sequence stays', async () => {
      await redo(
        admin,
        steps([unattributed(0n, [insert('public.invoices', { id: 'a', amount: null, mark: '\\x07' })])]),
        new Map(),
      )
      expect(await moveSequences(admin, seen([]), drawingShapes('mark'))).toEqual(['public.invoices.mark'])
      expect(await next()).toBe('1')
    })
  })
})
