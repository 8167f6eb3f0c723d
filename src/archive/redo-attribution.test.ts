import { describe, expect, test } from 'vitest'
import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Attribution } from './redo-attribution.ts'
import { advance, attribute, nothingAttributed } from './redo-attribution.ts'
import type { RedoIdentity, RowChange, RowImage } from './redo-transaction.ts'

const id = '01900000-0000-7000-8000-000000000001' as TransactionId
const other = '01900000-0000-7000-8000-000000000002' as TransactionId
const common = { tenant: 'globex-eu', action: 'payroll.approve', subject: 'apr-2026', actor: 'manager' }

const insert = (relation: string, after: RowImage): RowChange => ({ op: 'insert', relation, after })
const row = insert('public.payroll_runs', { id: '1' })
const home = (transaction: string, stamp: string) =>
  insert('holdfast.commit_log', { transaction_id: transaction, commit_timestamp: stamp, participants: '{}', ...common })
const branch = (transaction: string) =>
  insert('holdfast.branch', { transaction_id: transaction, home: 'us-east/treasury', participants: '{a/b}', ...common })
const decision = (transaction: string, outcome: string, stamp: string | null) =>
  insert('holdfast.decision', { transaction_id: transaction, outcome, commit_timestamp: stamp })

function at(highest: bigint, decided: [TransactionId, bigint][] = []): Attribution {
  return { highestStamp: highest as Hlc, decided: new Map(decided as [TransactionId, Hlc][]) }
}

describe('a transaction belongs to', () => {
  test('the home transaction whose row of the commit log it brings', () => {
    expect(attribute([row, home(id, '77')], at(5n))).toEqual({
      kind: 'home',
      transactionId: id,
      commitTimestamp: 77n,
      participants: [],
      ...common,
    })
  })

  test('the branch whose row it brings, at the timestamp decided before, or in the same commit', () => {
    const expected = {
      kind: 'branch',
      transactionId: id,
      commitTimestamp: 80n,
      home: 'us-east/treasury',
      participants: ['a/b'],
    }
    expect(attribute([row, branch(id)], at(5n, [[id, 80n]]))).toMatchObject(expected)
    expect(attribute([decision(id, 'COMMITTED', '80'), branch(id), row], at(5n))).toMatchObject(expected)
  })

  test('a branch of an unknown decision, which is asked for and never guessed', () => {
    expect(attribute([branch(id), row], at(5n, [[other, 80n]]))).toEqual({
      kind: 'decision_unknown',
      transactionId: id,
    })
    expect(attribute([decision(id, 'ABORTED', null), branch(id)], at(5n))).toMatchObject({ kind: 'decision_unknown' })
  })

  test('nobody, when rows changed without either, or with several', () => {
    const expected = { kind: 'unattributed', after: 5n }
    expect(attribute([row], at(5n))).toEqual(expected)
    expect(attribute([row, home(id, '7'), home(other, '8')], at(5n))).toEqual(expected)
    expect(attribute([row, home(id, '7'), branch(other)], at(5n))).toEqual(expected)
    expect(attribute([home(id, '7'), home(other, '8')], at(5n))).toEqual(expected)
    expect(attribute([insert('holdfast.outbox', {}), row], at(5n))).toEqual(expected)
    expect(attribute([insert('holdfasty.t', {})], at(5n))).toEqual(expected)
  })

  test('the platform, when only its own tables changed', () => {
    const platform = { kind: 'platform', after: 5n }
    expect(attribute([decision(id, 'COMMITTED', '9'), insert('holdfast.placement', {})], at(5n))).toEqual(platform)
    expect(attribute([insert('public.holdfast_migration', {})], at(5n))).toEqual(platform)
    expect(attribute([insert('public.holdfast_migration', {}), row], at(5n))).toMatchObject({ kind: 'unattributed' })
  })
})

describe('what is known goes on', () => {
  const identityOf = (kind: 'home' | 'branch', transactionId: TransactionId, stamp: bigint) =>
    ({ kind, transactionId, commitTimestamp: stamp as Hlc }) as RedoIdentity

  test('with the highest stamp, which never goes down', () => {
    const first = advance(nothingAttributed, [home(id, '77')], identityOf('home', id, 77n))
    expect(first.highestStamp).toBe(77n)
    expect(advance(first, [home(other, '70')], identityOf('home', other, 70n)).highestStamp).toBe(77n)
    expect(advance(first, [row], { kind: 'unattributed', after: 77n as Hlc }).highestStamp).toBe(77n)
  })

  test('with decisions until their branches are settled, or they are collected', () => {
    const platform: RedoIdentity = { kind: 'platform', after: 0n as Hlc }
    const rows = [decision(id, 'COMMITTED', '80'), decision(other, 'ABORTED', null)]
    const learnt = advance(nothingAttributed, rows, platform)
    expect([...learnt.decided]).toEqual([[id, 80n]])
    expect(advance(learnt, [branch(id)], identityOf('branch', id, 80n)).decided.size).toBe(0)
    const collected: RowChange = { op: 'delete', relation: 'holdfast.decision', before: { transaction_id: id } }
    expect(advance(learnt, [collected], platform).decided.size).toBe(0)
    expect(advance(learnt, [row], platform).decided.size).toBe(1)
  })
})
