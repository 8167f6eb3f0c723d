import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  collected,
  decision,
  history,
  home,
  insert,
  payroll,
  shape,
  transactionId,
  update,
} from '../../test/support/redo-values.ts'
import type { ShardArchive } from '../archive/archive.ts'
import { openArchive } from '../archive/archive.ts'
import { ArchiveFolder } from '../archive/archive-folder.ts'
import type { RedoTransaction } from '../archive/redo-transaction.ts'
import { RedoWriter } from '../archive/redo-writer.ts'
import { firstTimeline } from '../archive/timeline.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { absentBehind } from './cut.ts'
import { leftOutOf } from './cutover-plan.ts'
import { readSince } from './history.ts'
import { freeze, planCatchUp } from './restore-plan.ts'

const relation = 'public.payroll_items'
const table = shape('payroll_items', ['id', 'run', 'note'])
const note = 'x'.repeat(200)
const row = (number: number, place: number) => ({
  id: `${number}-${place}`,
  run: `${number}`,
  note: `${note}${number}`,
})

/** A few kB each, as those of a payroll. */
function commitOf(number: number): RedoTransaction {
  const places = Array.from({ length: 8 }, (_, place) => place)
  const { identity, changes } = home(number, BigInt(number), [
    ...places.map((place) => insert(relation, row(number, place))),
    // One long after it depends on the first.
    ...(number === commits ? [update(relation, row(1, 0), { note: 'changed' })] : []),
  ])
  const commitLsn = BigInt(number * 10) as Lsn
  const endLsn = (commitLsn + 8n) as Lsn
  return { shard: payroll, commitLsn, endLsn, xid: number, committedAtMs: 0, identity, changes }
}

const commits = 4_000
const bytesHeldMax = 8 << 20

async function newFolder(): Promise<ArchiveFolder> {
  const root = await mkdtemp(join(tmpdir(), 'hf-history-'))
  onTestFinished(() => rm(root, { recursive: true }))
  return new ArchiveFolder(root, payroll)
}

/** Of commits with these numbers, by a writer of its own. The server was told to have everything up to `confirmed`. */
async function write(folder: ArchiveFolder, confirmed: number, first: number, last: number): Promise<void> {
  const writer = await RedoWriter.open(
    { folder, systemId: '7', history: firstTimeline, segmentBytesMax: 1 << 20 },
    { confirmed: BigInt(confirmed) as Lsn, highestStamp: 0n as Hlc, clock: 0n as Hlc },
  )
  for (let number = first; number <= last; number++) {
    const commit = commitOf(number)
    writer.append(
      commit,
      commit.changes.map(() => table),
    )
    if (number % 100 === 0) await writer.flush()
  }
  writer.appendThrough(BigInt(last * 10 + 9) as Lsn, BigInt(last) as Hlc)
  await writer.flush()
  await writer.close()
}

/** The archive, and the most that the heap held more than before while its stream was read. */
function metered(archive: ShardArchive) {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const held = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const before = held()
  const meter = { most: 0, commits: 0 }
  const readRedo: ShardArchive['readRedo'] = async function* (range) {
    for await (const transaction of archive.readRedo(range)) {
      if (++meter.commits % 1_000 === 0) meter.most = Math.max(meter.most, held() - before)
      yield transaction
    }
  }
  return { archive: { ...archive, readRedo }, meter }
}

describe('what a plan holds of a stream', () => {
  test('R12: is bounded, whatever the stream has: each of its readings keeps what follows from it', async () => {
    const folder = await newFolder()
    await write(folder, 1, 1, commits)
    const { archive, meter } = metered(openArchive({ root: dirname(folder.path), shard: payroll }))
    const request = { target: { kind: 'end' }, without: [transactionId(1)] } as const
    const frozen = await freeze(new Map([[payroll, archive]]), request)
    const plan = await planCatchUp(frozen, new Map([[payroll, { kind: 'before', lsn: 10n as Lsn }]]))
    let absent = 0
    for (const { stop, history: one } of plan.shards.values()) {
      for await (const { changes } of absentBehind(stop, one, plan.cut.wanted)) absent += changes.length
    }
    expect(plan.exclusion?.dragged.map(({ name }) => name)).toEqual([transactionId(commits)])
    expect((await leftOutOf(plan)).names).toEqual([transactionId(1), transactionId(commits)])
    expect(absent).toBe((commits - 2) * 8)
    expect(meter.commits).toBeGreaterThan(commits * 5)
    expect(meter.most).toBeLessThan(bytesHeldMax)
  })
})

test('A4: each reading is of the same commits, also when the stream has a hole since', async () => {
  const folder = await newFolder()
  await write(folder, 1, 1, 3)
  const archives = new Map([[payroll, openArchive({ root: dirname(folder.path), shard: payroll })]])
  const { histories } = await freeze(archives, { target: { kind: 'end' }, without: [] })
  await write(folder, 100, 11, 12)
  const read = () => Promise.all(histories.map((one) => collected(one.read())))
  expect((await read()).flat().map(({ commitLsn }) => commitLsn)).toEqual([10n, 20n, 30n])
})

test('a reading ends with its signal', async () => {
  const folder = await newFolder()
  await write(folder, 1, 1, 3)
  const archives = new Map([[payroll, openArchive({ root: dirname(folder.path), shard: payroll })]])
  const giveUp = new AbortController()
  const { histories } = await freeze(archives, { target: { kind: 'end' }, without: [] }, giveUp.signal)
  giveUp.abort(new Error('the fleet stops'))
  for (const one of histories) await expect(collected(one.read())).rejects.toThrow('the fleet stops')
})

describe('a reading that begins within the stream', () => {
  const stamps = async (all: ReturnType<typeof history>, timestamp: bigint | null) => {
    const found: bigint[] = []
    for await (const { commitLsn } of readSince(all, timestamp as Hlc | null)) found.push(commitLsn)
    return found
  }

  test('leaves out what ended before all that has the timestamp or a higher one', async () => {
    const all = history(
      payroll,
      [10n, 30n, 20n, 25n, 40n, 50n].map((stamp, index) => home(index, stamp, [])),
    )
    expect(await stamps(all, 20n)).toEqual([100n, 110n, 120n, 130n, 140n, 150n])
    expect(await stamps(all, 30n)).toEqual([100n, 110n, 120n, 130n, 140n, 150n])
    expect(await stamps(all, 31n)).toEqual([140n, 150n])
    expect(await stamps(all, null)).toHaveLength(6)
  })

  test('R2: counts the decisions that stand before what they settle', async () => {
    const all = history(payroll, [home(1, 10n, []), decision(2, 40n, 10n), home(3, 20n, []), home(4, 30n, [])])
    expect(await stamps(all, 40n)).toEqual([100n, 110n, 120n, 130n])
    expect(await stamps(all, 41n)).toEqual([])
  })
})
