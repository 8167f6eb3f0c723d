import { describe, expect, test } from 'vitest'
import type { WrittenHistory } from '../../test/support/redo-values.ts'
import {
  branch,
  collected,
  decision,
  history,
  home,
  insert,
  payroll,
  remove,
  transactionId,
  treasury,
} from '../../test/support/redo-values.ts'
import type { BaseBackupEntry } from '../archive/base-backups.ts'
import { present } from '../base/assert.ts'
import type { Epoch, HistoryId, RegionName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { Stop, Wanted } from './cut.ts'
import { absentBehind, chooseBackup, chooseStop, committedBehind, decideBranch, planCut, readLeftOut } from './cut.ts'
import type { Bound } from './position.ts'

const at = (timestamp: bigint): Bound => ({ kind: 'timestamp', timestamp: timestamp as Hlc })
const lsn = (value: number) => BigInt(value) as Lsn
const whole = { from: lsn(0), contiguousThrough: lsn(10_000), lastRecord: lsn(9_990), gaps: [], checksumFailures: [] }
const row = insert('public.runs', { id: '1' })

type Excluded = Wanted['excluded']

async function cutOf(bound: Bound, commits: Parameters<typeof history>[1], excluded: Excluded = new Map()) {
  const written = history(payroll, commits)
  const { shards, wanted } = await planCut([written], { bound, excluded })
  const absent = (stop: Stop) => collected(absentBehind(stop, written, wanted))
  return { shard: present(shards.get(payroll), 'the shard is cut'), absent, leftOut: await leftOutOf(written, wanted) }
}

async function leftOutOf(written: WrittenHistory, wanted: Wanted): Promise<bigint[]> {
  return (await collected(readLeftOut(written, wanted))).map(({ commitLsn }) => commitLsn)
}

const before = (value: number): Stop => ({ kind: 'before', lsn: lsn(value) })

describe('the cut', () => {
  test('HZ-A3: the stop is the start of the first commit in log order that must not be there, exclusive', async () => {
    const { shard } = await cutOf(at(15n), [
      home(1, 10n, [row]),
      home(2, 20n, [row]),
      home(3, 15n, [row]),
      home(4, 30n, [row]),
    ])
    expect(shard.limit).toBe(110n)
    expect(chooseStop(at(15n), shard, lsn(140), whole)).toEqual({ kind: 'before', lsn: 110n })
  })

  test('HZ-A4: stamps and commits have different orders: what is wanted behind the stop is absent, the rest is left out', async () => {
    const { shard, absent, leftOut } = await cutOf(at(15n), [
      home(1, 10n, [row]),
      home(2, 20n, [row]),
      home(3, 15n, [row]),
      home(4, 30n, [row]),
    ])
    expect((await absent(before(110))).map(({ transaction }) => transaction.commitLsn)).toEqual([120n])
    expect(shard.leftOut).toBe(2)
    expect(leftOut).toEqual([110n, 130n])
  })

  test('R2: a decision goes with its transaction, although it stands in the log before the branch', async () => {
    const { shard } = await cutOf(at(15n), [home(1, 10n, [row]), decision(2, 20n, 10n), branch(2, 20n, [row])])
    expect(shard.limit).toBe(110n)
    expect(shard.leftOut).toBe(2)
  })

  test('R2: a commit of the platform that serves several transactions keeps the rows of those that stay', async () => {
    const [kept, gone] = [decision(1, 10n, 5n), decision(2, 20n, 5n)]
    const both = { ...kept, changes: [...kept.changes, ...gone.changes] }
    const { shard, absent } = await cutOf(at(15n), [both])
    expect(shard.limit).toBe(100n)
    expect(await absent(before(100))).toMatchObject([{ changes: kept.changes }])
  })

  test('an excluded transaction is left out, its branches and decisions with it', async () => {
    const commits = [home(1, 10n, [row]), decision(2, 20n, 10n), branch(2, 20n, [row]), home(3, 30n, [row])]
    const { shard, absent, leftOut } = await cutOf(at(100n), commits, new Map([[transactionId(2), 20n as Hlc]]))
    expect(shard).toMatchObject({ limit: 110n, leftOut: 2 })
    expect(leftOut).toEqual([120n])
    expect((await absent(before(0))).map(({ transaction }) => transaction.commitLsn)).toEqual([100n, 130n])
  })
})

describe('the decision over a restored branch', () => {
  const histories = [
    history(payroll, [home(1, 10n, [row], [treasury]), home(2, 20n, [row], [treasury])]),
    history(treasury, []),
  ]
  /** Over all of them, where each shard is replayed to this stop. */
  async function committedIn(all: readonly WrittenHistory[], wanted: Wanted, stop = before(100)) {
    const ids = new Set([1, 2, 5, 8].map(transactionId))
    const found = await Promise.all(all.map((one) => committedBehind(stop, one, wanted, ids)))
    return new Map(found.flatMap((one) => [...one]))
  }
  const wanted = { bound: at(15n), excluded: new Map() }

  test('HZ-X10: a record that lies behind the stop of its home, but before the target, commits the branch', async () => {
    expect(decideBranch(transactionId(1), await committedIn(histories, wanted), new Map())).toBe(10n)
  })

  test('what lies before the stop is read from the restored server, and not from the stream once more', async () => {
    expect(await committedIn(histories, { bound: { kind: 'end' }, excluded: new Map() }, before(110))).toEqual(
      new Map([[transactionId(2), 20n]]),
    )
  })

  test('R3: a restored record commits it, and without any record before the target it is rolled back', async () => {
    const committed = await committedIn(histories, wanted)
    expect(decideBranch(transactionId(8), committed, new Map([[transactionId(8), 7n as Hlc]]))).toBe(7n)
    expect(decideBranch(transactionId(8), committed, new Map([[transactionId(8), null]]))).toBeNull()
    expect(decideBranch(transactionId(2), committed, new Map())).toBeNull()
  })

  test('K6: a restore to before the collection of a record needs no record: the branch is settled behind the stop', async () => {
    const removal = remove('holdfast.transaction_record', { transaction_id: transactionId(1), outcome: 'COMMITTED' })
    const platform = { kind: 'platform', after: 20n as Hlc } as const
    // Home's own commit is older than the base backup that its restore begins with.
    const atHome = history(payroll, [home(2, 20n, [row]), { identity: platform, changes: [removal] }])
    const atParticipant = history(treasury, [home(3, 12n, [row]), decision(1, 10n, 12n), branch(1, 10n, [row])])
    // Left out is what stands before the settlement in the log of the participant: its branch is restored as prepared.
    const without = { bound: { kind: 'end' } as const, excluded: new Map([[transactionId(3), 12n as Hlc]]) }
    const cut = await planCut([atHome, atParticipant], without)
    expect(cut.shards.get(treasury)?.limit).toBe(100n)
    // Home is replayed past the removal and shows no record.
    expect(cut.shards.get(payroll)?.limit).toBeNull()
    const committed = await committedIn([atHome, atParticipant], without)
    expect(decideBranch(transactionId(1), committed, new Map())).toBe(10n)
  })

  test('R3: a decision that a participant learnt is a record too', async () => {
    const learnt = await committedIn([history(treasury, [decision(5, 12n, 10n)])], wanted)
    expect(decideBranch(transactionId(5), learnt, new Map())).toBe(12n)
  })
})

describe('the physical stop', async () => {
  const { shard, absent } = await cutOf(at(100n), [home(1, 10n, [row])])

  test('without a commit to leave out it is the end of the redo stream: nobody has looked at what comes behind', () => {
    expect(chooseStop(at(100n), shard, lsn(110), whole)).toEqual({ kind: 'before', lsn: 110n })
  })

  test('HZ-A2: it is a record that is archived, and what lies behind comes from the redo stream', async () => {
    const short = { ...whole, contiguousThrough: lsn(104), lastRecord: lsn(96) }
    const stop = chooseStop(at(100n), shard, lsn(110), short)
    expect(stop).toEqual({ kind: 'after', lsn: 96n, through: 104n })
    expect(await absent(stop)).toHaveLength(1)
  })

  test('HZ-A2: a gap or a damaged segment before it refuses the restore', () => {
    const gaps = [{ timeline: 1, from: lsn(64), to: lsn(80) }]
    expect(() => chooseStop(at(100n), shard, lsn(110), { ...whole, gaps })).toThrow('a gap from 0/40')
    const checksumFailures = [
      { timeline: 1, segment: '000000010000000000000001', reason: 'a checksum that does not match' },
    ]
    expect(() => chooseStop(at(100n), shard, lsn(110), { ...whole, checksumFailures })).toThrow('does not match')
  })

  test('a restore to the end takes the last record that is archived', () => {
    expect(chooseStop({ kind: 'end' }, shard, lsn(110), whole)).toEqual({ kind: 'after', lsn: 9990n, through: 10000n })
  })
})

describe('the base backup', () => {
  const backup = (id: string, stopLsn: number, timeline = 1): BaseBackupEntry => ({
    id,
    shard: payroll,
    region: 'eu-west' as RegionName,
    startLsn: lsn(stopLsn - 8),
    stopLsn: lsn(stopLsn),
    timeline,
    systemId: '1',
    historyId: '' as HistoryId,
    epoch: 1 as Epoch,
    takenAtMs: 0,
    postgresVersion: '18.0',
    bytes: 0,
    sha256: {},
  })
  const promoted = { timeline: 2, parents: [{ timeline: 1, switchLsn: lsn(300) }] }

  test('is the newest that is consistent before the stop', () => {
    const backups = [backup('a', 100), backup('b', 200), backup('c', 250)]
    expect(chooseBackup(payroll, backups, promoted, lsn(240)).id).toBe('b')
    expect(chooseBackup(payroll, backups, promoted, null).id).toBe('c')
  })

  test('is of this history: not of a timeline that was left before, nor of one that is no ancestor', () => {
    const backups = [backup('a', 100), backup('lost', 400), backup('other', 500, 3), backup('new', 350, 2)]
    expect(chooseBackup(payroll, backups, promoted, null).id).toBe('new')
  })

  test('is missed by name', () => {
    expect(() => chooseBackup(payroll, [backup('a', 100)], promoted, lsn(99))).toThrow('no base backup before 0/63')
  })
})
