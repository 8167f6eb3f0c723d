import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { branch, history, home, payroll, transactionId, unattributed } from '../../test/support/redo-values.ts'
import type { RedoThrough } from '../archive/redo-transaction.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { compareTransactions } from './comparison.ts'
import * as store from './comparison-store.ts'
import type { Stop } from './cut.ts'
import type { Bound } from './position.ts'

const written = history(payroll, [
  home(1, 10n, []),
  unattributed(10n, []),
  home(2, 20n, []),
  home(3, 30n, []),
  branch(4, 20n, []),
])
const nothing = { count: 0, names: [] }
const until20: Bound = { kind: 'timestamp', timestamp: 20n as Hlc }

describe('R2: the restored ids against the archive', () => {
  let database: FreshDatabase
  let admin: Connection

  beforeAll(async () => {
    database = await freshDatabase()
  })

  beforeEach(async () => {
    admin = await Connection.connect(database.target(), 5_000)
    await admin.script('truncate holdfast.commit_log, holdfast.branch, holdfast.decision')
  })

  afterEach(() => admin.release())
  afterAll(() => database.drop())

  /** Those at home here have a stamp of their own; a branch has that of its decision, while that is there. */
  async function restored(...numbers: [number, bigint][]): Promise<void> {
    for (const [number, stamp] of numbers) {
      await admin.query(
        `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
           epoch, participants) values ($1, $2, '7', 't', 'a', 's', 'm', '{}', 1, '{}')`,
        [transactionId(number), stamp],
      )
    }
  }

  async function restoredBranch(number: number, stamp: bigint | null): Promise<void> {
    await admin.query(
      `insert into holdfast.branch (transaction_id, gid, home, home_epoch, participants, prepare_timestamp, xid, tenant,
         action, subject, actor, placements, epoch) values ($1::uuid, $1::uuid::text, 'h', 1, '{}', 1, '7', 't', 'a', 's', 'm', '{}', 1)`,
      [transactionId(number)],
    )
    if (stamp === null) return
    await admin.query(
      `insert into holdfast.decision (transaction_id, outcome, commit_timestamp, home, home_epoch)
       values ($1, 'COMMITTED', $2, 'h', 1)`,
      [transactionId(number), stamp],
    )
  }

  function compare(
    redo: Partial<RedoThrough> = {},
    bound: Bound = until20,
    stop: Stop = { kind: 'before', lsn: 130n as Lsn },
  ) {
    const one = { ...written, redo: { ...written.redo, ...redo } }
    return compareTransactions(admin, { history: one, stop }, { bound, excluded: new Map() })
  }

  test('are the wanted ones', async () => {
    await restored([1, 10n], [2, 20n])
    await restoredBranch(4, 20n)
    expect(await compare()).toEqual({ missing: nothing, unexpected: nothing })
    // And once more, in the session that compared them before.
    expect(await compare()).toEqual({ missing: nothing, unexpected: nothing })
  })

  test('one that is missing, and one that was left out, are told', async () => {
    await restored([2, 20n], [3, 30n])
    expect(await compare()).toEqual({
      missing: { count: 2, names: [transactionId(1), transactionId(4)] },
      unexpected: { count: 1, names: [transactionId(3)] },
    })
  })

  test('of many that differ all are counted', async () => {
    await restored(...[11, 12, 13, 14, 15, 16, 17].map((number): [number, bigint] => [number, 50n]))
    const { unexpected } = await compare()
    expect([unexpected.count, unexpected.names.length]).toEqual([7, 5])
  })

  test('one from before the stream is no surprise, one that the stream should have is', async () => {
    await restored([1, 10n], [2, 20n], [8, 5n])
    await restoredBranch(4, 20n)
    expect(await compare()).toEqual({ missing: nothing, unexpected: nothing })
    await restored([9, 15n])
    await restoredBranch(10, null)
    expect((await compare()).unexpected).toEqual({ count: 2, names: [transactionId(9), transactionId(10)] })
  })

  test('one from before the stream may have a higher stamp than the first in it, up to the clock where the stream begins', async () => {
    await restored([1, 10n], [2, 20n], [8, 15n], [9, 16n])
    expect((await compare({ clockAtFrom: 15n as Hlc })).unexpected).toEqual({ count: 1, names: [transactionId(9)] })
  })

  test('a log that goes further than the stream may bring what nobody has looked at, but nothing that was left out', async () => {
    await restored([1, 10n], [2, 20n], [3, 30n], [9, 40n])
    await restoredBranch(4, 20n)
    const beyond = { kind: 'after', lsn: 200n as Lsn, through: 208n as Lsn } as const
    expect((await compare({}, { kind: 'end' }, beyond)).unexpected).toEqual(nothing)
    expect((await compare({}, { kind: 'end' })).unexpected).toEqual({ count: 1, names: [transactionId(9)] })
    expect((await compare({}, { kind: 'end', through: 20n as Hlc }, beyond)).unexpected).toEqual({
      count: 1,
      names: [transactionId(3)],
    })
  })

  describe('what is unexpected', () => {
    const archived = [
      { id: transactionId(1), isWanted: true },
      { id: transactionId(2), isWanted: false },
      { id: transactionId(3), isWanted: false },
      { id: transactionId(3), isWanted: true },
    ]
    const before10 = { newestBefore: 10n as Hlc, isBeyondStream: false }

    beforeEach(async () => {
      await store.beginComparison(admin)
      await store.addArchived(admin, archived)
      await store.countArchived(admin)
    })

    test.each<{ what: string; stamp: bigint | null; number: number; differs: [boolean, boolean, boolean] }>([
      { what: 'wanted, above the bound', number: 1, stamp: 20n, differs: [false, false, false] },
      { what: 'wanted, without a stamp', number: 1, stamp: null, differs: [false, false, false] },
      { what: 'unwanted, above the bound', number: 2, stamp: 20n, differs: [true, true, true] },
      { what: 'unwanted, below the bound', number: 2, stamp: 5n, differs: [true, true, true] },
      { what: 'unwanted, without a stamp', number: 2, stamp: null, differs: [true, true, true] },
      { what: 'wanted and unwanted', number: 3, stamp: 20n, differs: [false, false, false] },
      { what: 'unknown, below the bound', number: 4, stamp: 5n, differs: [false, false, false] },
      { what: 'unknown, at the bound', number: 4, stamp: 10n, differs: [false, false, false] },
      { what: 'unknown, above the bound', number: 4, stamp: 11n, differs: [true, false, false] },
      { what: 'unknown, without a stamp', number: 4, stamp: null, differs: [true, false, false] },
    ])('$what', async ({ number, stamp, differs }) => {
      await restoredBranch(number, stamp)
      const streams = [before10, { newestBefore: null, isBeyondStream: false }, { ...before10, isBeyondStream: true }]
      for (const [index, stream] of streams.entries()) {
        const expected = differs[index] === true ? { count: 1, names: [transactionId(number)] } : nothing
        expect(await store.findUnexpected(admin, stream)).toEqual(expected)
      }
    })

    test('is found by joins, as is what is missing, where not all of it fits in memory', async () => {
      await admin.query(`set work_mem = '64kB'`)
      const query = vi.spyOn(admin, 'query')
      await store.findMissing(admin)
      await store.findUnexpected(admin, before10)
      const sent = query.mock.calls.map(([text, values]) => ({ text, values }))
      query.mockRestore()
      expect(sent).toHaveLength(2)
      for (const { text, values } of sent) {
        const { rows } = await admin.query<{ 'QUERY PLAN': string }>(`explain ${text}`, values)
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n')
        expect(plan).toContain('on archived')
        expect(plan).not.toContain('SubPlan')
      }
    })
  })

  test('global transactions are read by stretches of their ids', async () => {
    await restored([1, 10n], [3, 30n], [5, 50n])
    await admin.query(`update holdfast.commit_log set participants = '{us-east/treasury}' where commit_timestamp > 10`)
    for (const number of [2, 4, 6]) await restoredBranch(number, null)
    expect(await store.findBehind(admin, null, 2)).toBe(transactionId(3))
    expect(await store.findBehind(admin, transactionId(3), 2)).toBe(transactionId(6))
    expect(await store.findBehind(admin, transactionId(4), 2)).toBeNull()
    const read = async (behind: number | null, through: number | null) => {
      const end = (number: number | null) => (number === null ? null : transactionId(number))
      const { homes, branches } = await store.readGlobals(admin, end(behind), end(through))
      return [homes, branches].map((all) => all.map((one) => one.transactionId).sort())
    }
    expect(await read(null, 3)).toEqual([[3], [2]].map((numbers) => numbers.map(transactionId)))
    expect(await read(3, 5)).toEqual([[5], [4]].map((numbers) => numbers.map(transactionId)))
    expect(await read(5, null)).toEqual([[], [6]].map((numbers) => numbers.map(transactionId)))
  })
})
