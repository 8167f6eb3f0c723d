import { open, readdir, readFile, rename, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { archiveOf, currentLsn, readAll, type RunningRedo, startRedo, testShard } from '../../test/support/archive.ts'
import { commitHome } from '../../test/support/archive-shard.ts'
import { FoundedShard } from '../../test/support/founded-shard.ts'
import { present } from '../base/assert.ts'
import { systemClock } from '../base/clock.ts'
import { isHoldfastError } from '../base/errors.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { ShardArchive } from './archive.ts'
import { ArchiveFolder } from './archive-folder.ts'
import { listRedoFiles } from './redo-path.ts'
import { readRecords } from './redo-segment.ts'
import { reserveRedo } from './redo-stream.ts'
import { firstTimeline } from './timeline.ts'

let shard: FoundedShard
let admin: Connection
let places = 0

beforeAll(async () => {
  shard = await FoundedShard.open('local')
  admin = shard.admin
  await admin.query('create extension pg_walinspect')
})

afterAll(async () => {
  await shard[Symbol.asyncDispose]()
})

interface Place {
  readonly folder: ArchiveFolder
  readonly archive: ShardArchive
  readonly start: (segmentBytesMax?: number) => RunningRedo
}

/** An archive of its own, and a slot that begins with it. */
async function newPlace(): Promise<Place> {
  const root = join(shard.yard.root, `archive-${places++}`)
  await dropSlot()
  const folder = new ArchiveFolder(root, testShard)
  const start = (segmentBytesMax?: number) => startRedo(folder, shard.target, segmentBytesMax)
  const first = start()
  await closedAndStored(archiveOf(root))
  await first.stop()
  onTestFinished(dropSlot)
  return { folder, archive: archiveOf(root), start }
}

async function dropSlot(): Promise<void> {
  const sql = `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'hf_redo'`
  while (!(await admin.query(sql).catch(() => undefined))) await systemClock.sleep(10)
}

/** Waits until the stream has everything of this moment. */
async function closedAndStored(archive: ShardArchive): Promise<Lsn> {
  const to = await currentLsn(admin)
  await admin.query('select holdfast.publish_closed(holdfast.tick(holdfast.wall_hlc()))')
  for (;;) {
    const through = await archive.redoThrough()
    if (through !== undefined && through.lsn >= to) return to
    await systemClock.sleep(10)
  }
}

/** Once the server has read the last that it was told. */
async function confirmed(): Promise<Lsn> {
  const sql = `select confirmed_flush_lsn::text as lsn, active from pg_replication_slots where slot_name = 'hf_redo'`
  for (;;) {
    const { rows } = await admin.query<{ lsn: string; active: boolean }>(sql)
    const { lsn, active } = present(rows[0], 'a slot')
    if (!active) return parseLsn(lsn)
    await systemClock.sleep(5)
  }
}

/** A generator of numbers in [0, 1) that repeats for a seed (Vigna, SplitMix). */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e37_79b9) >>> 0
    let mixed = state ^ (state >>> 16)
    mixed = Math.imul(mixed, 0x21f0_aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a_2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }
}

/** What a crash may take: bytes behind what was confirmed to the server, down to the middle of a record. */
async function crash(folder: ArchiveFolder, random: () => number): Promise<void> {
  const [last] = (await listRedoFiles(folder, firstTimeline)).slice(-1)
  if (last === undefined) return
  const kept = await confirmed()
  const bytes = await readFile(last.path)
  let at = 0
  for (const offset of recordEnds(bytes, kept)) at = offset
  await truncate(last.path, at + Math.floor(random() * (bytes.length - at + 1)))
  if (random() < 0.3) {
    const file = await open(last.path, 'a')
    await file.write(Buffer.alloc(Math.floor(random() * 200)))
    await file.close()
  }
}

/** The ends of the records that say nothing behind `kept`. */
function* recordEnds(bytes: Buffer, kept: Lsn): Generator<number> {
  for (let end = 8; end + 36 <= bytes.length; ) {
    end += 36 + bytes.readUInt32BE(end)
    const position = [...readRecords(bytes.subarray(0, end), 'test')].at(-1)
    if (position?.kind === 'transaction' && position.transaction.endLsn > kept) return
    if (position?.kind === 'through' && position.lsn > kept) return
    yield end
  }
}

/** All places between two records, on either side of a page header. */
async function recordEdges(from: Lsn, to: Lsn): Promise<Set<Lsn>> {
  const { rows } = await admin.query<{ edges: string[] }>(
    `select array[start_lsn::text, end_lsn::text] as edges from pg_get_wal_records_info($1, $2)`,
    [formatLsn(from), formatLsn(to)],
  )
  return new Set(rows.flatMap(({ edges }) => edges.map(parseLsn)))
}

/** Where the commit records start, as the server's own log has them. */
async function commitRecords(from: Lsn, to: Lsn): Promise<Lsn[]> {
  const { rows } = await admin.query<{ lsn: string }>(
    `select start_lsn::text as lsn from pg_get_wal_records_info($1, $2)
     where resource_manager = 'Transaction' and record_type like 'COMMIT%' order by start_lsn`,
    [formatLsn(from), formatLsn(to)],
  )
  return rows.map(({ lsn }) => parseLsn(lsn))
}

describe('A4: the stream has every transaction once, in the order of the commit records', () => {
  for (const seed of [1, 2, 3]) {
    test(`however often its writer crashes (seed ${seed})`, async () => {
      const random = randomFrom(seed)
      const { folder, archive, start } = await newPlace()
      const from = await currentLsn(admin)
      let writing = true
      const writers = [0, 1, 2].map(async (writer) => {
        const connection = await shard.connect()
        const written: number[] = []
        for (let round = 0; writing; round++) {
          const statements = [
            `insert into payroll_runs (tenant, status, note) values ('globex-eu', 'w${writer}', 'round ${round}')`,
            `update payroll_runs set note = note || '.' where id = (select min(id) from payroll_runs where status = 'w${writer}')`,
          ]
          await connection.query('begin')
          for (const statement of statements) await connection.query(statement)
          const { rows } = await connection.query<{ xid: number }>('select pg_current_xact_id()::text::int as xid')
          if (round % 7 === 3) {
            await connection.query(`prepare transaction 'p${seed}-${writer}-${round}'`)
            await systemClock.sleep(3)
            await connection.query(`commit prepared 'p${seed}-${writer}-${round}'`)
          } else await connection.query('commit')
          written.push(present(rows[0], 'an xid').xid)
        }
        connection.release()
        return written
      })
      onTestFinished(async () => {
        writing = false
        await Promise.allSettled(writers)
      })
      for (let round = 0; round < 8; round++) {
        const running = start(4_000)
        await systemClock.sleep(20 + random() * 250)
        await running.stop()
        expect(running.events).toEqual([])
        await crash(folder, random)
      }
      writing = false
      const written = (await Promise.all(writers)).flat()
      const last = start(4_000)
      const to = await closedAndStored(archive)
      await last.stop()
      const streamed = await readAll(archive, { from, to })
      const ascending = (a: number, b: number) => a - b
      expect(streamed.map(({ xid }) => xid).sort(ascending)).toEqual(written.sort(ascending))
      const places = new Set(streamed.map(({ commitLsn }) => commitLsn))
      const inLog = (await commitRecords(from, to)).filter((lsn) => places.has(lsn))
      expect(streamed.map(({ commitLsn }) => commitLsn)).toEqual(inLog)
      expect(streamed.length).toBeGreaterThan(50)
      expect((await archive.verify()).problems).toEqual([])
    })
  }
})

describe('A4: a hole is told', () => {
  test('HZ-R2: when the slot was lost, readers across the hole are refused, and those on either side are not', async () => {
    const { archive, start } = await newPlace()
    const first = start()
    const from = await currentLsn(admin)
    const before = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'x')`])
    const edge = await closedAndStored(archive)
    await first.stop()
    await dropSlot()
    await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'in the hole')`])
    const again = start()
    onTestFinished(() => again.stop())
    await expect.poll(() => again.events.map(({ kind }) => kind)).toEqual(['redo_lost'])
    const behind = await currentLsn(admin)
    const after = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'y')`])
    const to = await closedAndStored(archive)

    const ids = async (range: { from?: Lsn; to?: Lsn }) =>
      (await readAll(archive, range)).flatMap(({ identity }) =>
        identity.kind === 'home' ? [identity.transactionId] : [],
      )
    expect(await ids({ from, to: edge })).toEqual([before.transactionId])
    expect(await ids({ from: behind, to })).toEqual([after.transactionId])
    expect(await ids({})).toEqual([after.transactionId])
    await expect(ids({ from, to })).rejects.toSatisfy((error) => isHoldfastError(error, 'archive_gap'))
    await expect(ids({ from })).rejects.toSatisfy((error) => isHoldfastError(error, 'archive_gap'))
    const through = present(await archive.redoThrough(), 'a stream')
    expect(through.from).toBeGreaterThan(edge)
    expect((await archive.verify()).problems).toEqual([expect.stringContaining('begins behind a hole')])
  })

  test('when confirmed bytes were damaged: the stream goes on behind them, and what they were is missing', async () => {
    const { folder, archive, start } = await newPlace()
    const first = start()
    const from = await currentLsn(admin)
    await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'damaged')`])
    const stored = await closedAndStored(archive)
    // The server is told after the archive has it; what it was not told it sends again.
    const told = `select from pg_replication_slots where slot_name = 'hf_redo' and confirmed_flush_lsn >= $1`
    await expect.poll(async () => (await admin.query(told, [formatLsn(stored)])).rowCount).toBe(1)
    await first.stop()
    const last = present((await listRedoFiles(folder, firstTimeline)).at(-1), 'a segment')
    const content = await readFile(last.path)
    const at = content.indexOf('damaged')
    const file = await open(last.path, 'r+')
    await file.write(Buffer.from('D'), 0, 1, at)
    await file.close()
    expect((await archive.verify()).problems).toEqual([expect.stringContaining('damaged at its end')])

    const again = start()
    onTestFinished(() => again.stop())
    await expect.poll(() => again.events.map(({ kind }) => kind)).toEqual(['redo_lost'])
    const to = await closedAndStored(archive)
    await expect(readAll(archive, { from, to })).rejects.toSatisfy((error) => isHoldfastError(error, 'archive_gap'))
    expect((await archive.verify()).ok).toBe(false)
  })

  test('a missing segment is not skipped', async () => {
    const { folder, archive, start } = await newPlace()
    const running = start(1_000)
    const from = await currentLsn(admin)
    for (let round = 0; round < 10; round++) {
      await admin.query(`insert into payroll_runs (tenant, status) values ('globex-eu', repeat('segment', 200))`)
      await closedAndStored(archive)
    }
    const to = await closedAndStored(archive)
    await running.stop()
    const files = await listRedoFiles(folder, firstTimeline)
    expect(files.length).toBeGreaterThan(4)
    expect((await readAll(archive, { from, to })).length).toBe(10)
    const taken = present(files.at(-3), 'a segment in the middle').path
    await rename(taken, join(shard.yard.root, 'taken'))
    await expect(readAll(archive, { from, to })).rejects.toSatisfy((error) => isHoldfastError(error, 'archive_gap'))
    expect((await archive.verify()).ok).toBe(false)
  })
})

test('how far the stream is lies between two records, also while a follower has flushed half of one', async () => {
  const { folder, archive, start } = await newPlace()
  const { rows } = await admin.query<{ source: string }>(
    `select pg_get_functiondef('holdfast.replicated_through()'::regprocedure) as source`,
  )
  onTestFinished(() => admin.script(present(rows[0], 'a function').source))
  // The log ends with a record of 20 kB almost all the time: so a follower is in the middle of it.
  await admin.script(`create or replace function holdfast.replicated_through() returns pg_lsn language sql volatile
    as 'select pg_current_wal_insert_lsn() - 5000::numeric'`)
  const running = start()
  onTestFinished(() => running.stop())
  const from = await currentLsn(admin)
  let closed = 0n
  for (let round = 0; round < 5; round++) {
    await admin.query('select holdfast.publish_closed(holdfast.tick(holdfast.wall_hlc()))')
    const before = closed
    await expect
      .poll(async () => {
        await admin.query(`select pg_logical_emit_message(false, 'long', repeat('x', 20000), true)`)
        closed = present(await archive.redoThrough(), 'a stream').closedTimestamp
        return closed
      })
      .toBeGreaterThan(before)
  }
  await running.stop()
  const edges = await recordEdges(from, await currentLsn(admin))
  for (const { path } of await listRedoFiles(folder, firstTimeline)) {
    for (const record of readRecords(await readFile(path), 'test')) {
      if (record.kind === 'through' && record.lsn > from) expect(edges).toContain(record.lsn)
    }
  }
})

test('segments are read one at a time, and a reader may stop early', async () => {
  const { folder, archive, start } = await newPlace()
  const running = start(1_000)
  for (let round = 0; round < 5; round++) {
    await admin.query(`insert into payroll_runs (tenant, status) values ('globex-eu', 'early')`)
    await closedAndStored(archive)
  }
  await running.stop()
  const first = await archive.readRedo()[Symbol.asyncIterator]().next()
  expect(first.done).toBe(false)
  expect((await readdir(folder.redoFolderOf(1))).length).toBeGreaterThan(2)
})

test('a slot that two make at once is made, and neither fails', async () => {
  await dropSlot()
  onTestFinished(dropSlot)
  const reserve = () => reserveRedo(shard.target(), 'hf_redo', systemClock)
  await Promise.all([reserve(), reserve(), reserve()])
  const { rows } = await admin.query('select from pg_replication_slots where confirmed_flush_lsn is not null')
  expect(rows).toHaveLength(1)
})
