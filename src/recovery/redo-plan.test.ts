import { describe, expect, test } from 'vitest'
import { history, home, insert, payroll, remove, shape, update } from '../../test/support/redo-values.ts'
import type { RedoTransaction, RowChange } from '../archive/redo-transaction.ts'
import { present } from '../base/assert.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { planRedo } from './redo-plan.ts'

const shapes = new Map([
  ['public.runs', shape('runs', ['id', 'status'])],
  ['public.log', shape('log', ['at', 'what'], [], [])],
])

function plan(change: RowChange, identity?: RedoTransaction['identity']) {
  const [transaction] = history(payroll, [home(1, 10n, [change])]).transactions
  const base = present(transaction, 'one transaction')
  return planRedo({ transaction: { ...base, identity: identity ?? base.identity }, changes: [change] }, shapes)
}

describe('redo statements', () => {
  test('R4: an update names its row by the key, compares every column of the before image, and must find one row', () => {
    expect(plan(update('public.runs', { id: '1', status: 'open' }, { status: "o'k" }))).toEqual([
      {
        text: `update "public"."runs" set "status" = $1 where "id" = $2 and "id" is not null and format('%s', "id") = $3 and "status" is not null and format('%s', "status") = $4`,
        values: ["o'k", '1', '1', 'open'],
        rows: 1,
        relation: 'public.runs',
      },
    ])
  })

  test('R4: a null is compared as a null', () => {
    const [statement] = plan(remove('public.runs', { id: '1', status: null }))
    expect(statement?.text).toMatch(/and "status" is null$/)
    expect(statement?.rows).toBe(1)
  })

  test('an update that changed nothing still requires its row', () => {
    const [statement] = plan(update('public.runs', { id: '1', status: 'open' }, {}))
    expect(statement?.text).toMatch(/^select from "public"."runs" where/)
    expect(statement?.rows).toBe(1)
  })

  test('equal rows of a table without a key are told apart by their place', () => {
    const [statement] = plan(remove('public.log', { at: '1', what: 'x' }))
    expect(statement?.text).toMatch(/^delete from "public"."log" where ctid = \(select ctid from .* limit 1\)$/)
  })

  test('names are quoted and values are parameters, whatever they hold', () => {
    const [statement] = plan(insert('public.we"ird', { 'a"; drop table x; --': "'; drop table y; --" }))
    expect(statement?.text).toBe(
      'insert into "public"."we""ird" ("a""; drop table x; --") overriding system value values ($1)',
    )
    expect(statement?.values).toEqual(["'; drop table y; --"])
  })

  test('what the platform changed by itself may have happened already', () => {
    const platform = { kind: 'platform', after: 0n as Hlc } as const
    const [inserted] = plan(insert('holdfast.decision', { transaction_id: 'x' }), platform)
    expect(inserted?.text).toMatch(/on conflict do nothing$/)
    expect(inserted?.rows).toBeNull()
    const [gone] = plan(remove('holdfast.outbox', { event_id: 'x' }), platform)
    expect(gone?.rows).toBeNull()
  })

  test.each([
    ['a record', remove('holdfast.transaction_record', { transaction_id: 'x', outcome: 'COMMITTED' })],
    ['a decision', remove('holdfast.decision', { transaction_id: 'x', outcome: 'ABORTED' })],
    ['a key', remove('holdfast.idempotency', { tenant: 't', key: 'k' })],
  ])('K6: %s that was collected is not removed again, since the watermark is not in the stream', (_, removal) => {
    expect(plan(removal, { kind: 'platform', after: 0n as Hlc } as const)).toEqual([])
  })

  test('K6: a key that is used again replaces its earlier use, which may have been collected and was kept', () => {
    const [again] = plan(insert('holdfast.idempotency', { tenant: 't', key: 'k', value: '1' }))
    expect(again?.text).toMatch(
      / on conflict \(tenant, key\) do update set "tenant" = excluded\."tenant", "key" = excluded\."key", "value" = excluded\."value"$/,
    )
    expect(again?.rows).toBe(1)
  })

  test('TRUNCATE becomes the removal of all rows', () => {
    expect(plan({ op: 'truncate', relation: 'public.runs' })).toEqual([
      { text: 'delete from "public"."runs"', values: [], rows: null, relation: 'public.runs' },
    ])
  })
})
