import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import {
  archivedThrough,
  currentLsn,
  type RunningReceiver,
  startReceiver,
  testShard,
} from '../../test/support/archive.ts'
import { ServerYard } from '../../test/support/servers.ts'
import { present } from '../base/assert.ts'
import type { Connection } from '../postgres/connection.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import { buildFollower, promote, waitStreaming } from '../postgres/server/follower.ts'
import type { LocalServer } from '../postgres/server/local-server.ts'
import { ArchiveFolder } from './archive-folder.ts'
import { parseTimelineHistory } from './timeline.ts'
import { auditWal } from './wal-reader.ts'
import { segmentName, segmentNumber, segmentStart } from './wal-segment.ts'

const segmentBytes = 4 << 20
const settings = { wal_level: 'logical', max_wal_senders: 10, wal_keep_size: '256MB', max_prepared_transactions: 10 }

let yard: ServerYard
let primary: LocalServer
let admin: Connection

beforeAll(async () => {
  yard = await ServerYard.open()
  primary = await yard.primary('primary', settings)
  admin = await yard.connect(primary)
  await admin.query('create table item (id bigserial primary key, filler text)')
})

afterAll(async () => {
  admin.release()
  await yard[Symbol.asyncDispose]()
})

let folders = 0
function newFolder(): ArchiveFolder {
  return new ArchiveFolder(join(yard.root, `archive-${folders++}`), testShard)
}

function receive(folder: ArchiveFolder, target: () => ConnectionTarget = () => yard.target(primary)): RunningReceiver {
  const receiver = startReceiver(folder, target)
  onTestFinished(() => receiver.stop())
  return receiver
}

/** Writes at least that many bytes of log, and ends the segment. */
async function fill(connection: Connection, bytes: number): Promise<Lsn> {
  await connection.query(`insert into item (filler) select repeat('x', 1000) from generate_series(1, $1)`, [
    Math.ceil(bytes / 1000),
  ])
  await connection.query('select pg_switch_wal()')
  await connection.query(`insert into item (filler) values ('first of the next segment')`)
  return currentLsn(connection)
}

async function archivedSegments(folder: ArchiveFolder, timeline = 1): Promise<string[]> {
  const names = await readdir(folder.walFolderOf(timeline))
  return names.filter((name) => /^[0-9A-F]{24}$/.test(name))
}

async function expectServersBytes(folder: ArchiveFolder, server: LocalServer, names: readonly string[], timeline = 1) {
  for (const name of names) {
    const ours = await readFile(join(folder.walFolderOf(timeline), name))
    const theirs = await readFile(join(server.dataDir, 'pg_wal', name))
    expect(ours.equals(theirs), name).toBe(true)
  }
}

/** Those in use refuse; how many are left comes back. */
async function dropSlots(): Promise<number> {
  const slots = 'from pg_replication_slots where not active'
  await admin.query(`select pg_drop_replication_slot(slot_name) ${slots}`)
  return (await admin.query('select slot_name from pg_replication_slots')).rowCount
}

async function firstArchived(folder: ArchiveFolder): Promise<Lsn> {
  const [name] = (await readdir(folder.walFolderOf(1))).sort()
  return segmentStart(BigInt(`0x${present(name, 'a segment').slice(16, 24)}`), segmentBytes)
}

describe('the WAL receiver', () => {
  test('A2: what it archives is byte for byte what the server has', async () => {
    const folder = newFolder()
    receive(folder)
    const from = await currentLsn(admin)
    const to = await fill(admin, 3 * segmentBytes)
    const audit = await archivedThrough(folder, from, to)
    const names = await archivedSegments(folder)
    expect(names.length).toBeGreaterThanOrEqual(3)
    await expectServersBytes(folder, primary, names)
    expect(audit.gaps).toEqual([])
    expect((await auditWal(folder, { history: { timeline: 1, parents: [] }, from }, 'bytes')).checksumFailures).toEqual(
      [],
    )
  })

  test('A1: a receiver that is stopped in a segment, which then loses its tail or gains zeros, makes it whole again', async () => {
    const folder = newFolder()
    const first = receive(folder)
    await admin.query(`insert into item (filler) select repeat('y', 1000) from generate_series(1, 500)`)
    const to = await currentLsn(admin)
    const from = segmentStart(segmentNumber(to, segmentBytes), segmentBytes)
    await archivedThrough(folder, from, to)
    await first.stop()
    const name = segmentName({ timeline: 1, number: segmentNumber(to, segmentBytes) }, segmentBytes)
    const partial = join(folder.walFolderOf(1), `${name}.partial`)
    const whole = await readFile(partial)
    for (const damage of [
      () => truncate(partial, whole.length - 100_000),
      () => writeFile(partial, Buffer.concat([whole.subarray(0, whole.length - 50_000), Buffer.alloc(900_000)])),
    ]) {
      await damage()
      const broken = await auditWal(folder, { history: { timeline: 1, parents: [] }, from }, 'names')
      expect(broken.contiguousThrough).toBeLessThan(to)
      const again = receive(folder)
      await archivedThrough(folder, from, to)
      await again.stop()
    }
    receive(folder)
    const end = await fill(admin, 1000)
    await archivedThrough(folder, from, end)
    await expectServersBytes(folder, primary, [name])
  })

  test('A1: as a synchronous follower, it has every acknowledged commit on its disk', async () => {
    const folder = newFolder()
    const receiver = receive(folder)
    await expect.poll(() => receiver.events.map(({ kind }) => kind)).toContain('timeline_followed')
    await primary.configure({ ...settings, synchronous_standby_names: 'ANY 1 (archive)' })
    onTestFinished(() => primary.configure(settings))
    await expect
      .poll(async () => (await admin.query(`select sync_state from pg_stat_replication`)).rows[0]?.['sync_state'])
      .toBe('quorum')
    const from = await firstArchived(folder)
    for (let round = 0; round < 30; round++) {
      await admin.query(`insert into item (filler) values ('acknowledged')`)
      const { rows } = await admin.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
      const lsn = parseLsn(present(rows[0], 'a row').lsn)
      const audit = await auditWal(folder, { history: { timeline: 1, parents: [] }, from }, 'names')
      expect(audit.contiguousThrough).toBeGreaterThanOrEqual(lsn)
    }
  })

  test('HZ-A1: the audit names a segment that was taken away, and ends before it', async () => {
    const folder = newFolder()
    const receiver = receive(folder)
    const from = await currentLsn(admin)
    for (let round = 0; round < 4; round++) await fill(admin, 1000)
    const to = await currentLsn(admin)
    await archivedThrough(folder, from, to)
    await receiver.stop()
    const number = segmentNumber(from, segmentBytes) + 2n
    const path = join(folder.walFolderOf(1), segmentName({ timeline: 1, number }, segmentBytes))
    const content = await readFile(path)
    await rm(path)
    const history = { timeline: 1, parents: [] }
    const audit = await auditWal(folder, { history, from }, 'names')
    expect(audit.gaps).toEqual([
      { timeline: 1, from: segmentStart(number, segmentBytes), to: segmentStart(number + 1n, segmentBytes) },
    ])
    expect(audit.contiguousThrough).toBeLessThanOrEqual(segmentStart(number, segmentBytes))

    content[segmentBytes / 2] = (content[segmentBytes / 2] ?? 0) ^ 1
    await writeFile(path, content)
    expect((await auditWal(folder, { history, from }, 'names')).gaps).toEqual([])
    const bytes = await auditWal(folder, { history, from }, 'bytes')
    expect(bytes.checksumFailures).toEqual([
      { timeline: 1, segment: segmentName({ timeline: 1, number }, segmentBytes), reason: 'has another checksum' },
    ])
    expect(bytes.contiguousThrough).toBeLessThanOrEqual(segmentStart(number, segmentBytes))
  })

  test('HZ-A1: it follows a promotion onto the new timeline, through what the old primary never archived', async () => {
    const folder = newFolder()
    let current = primary
    const receiver = receive(folder, () => yard.target(current))
    const follower = yard.server('follower', settings)
    const upstream = { primary: yard.target(primary), applicationName: 'follower', slot: 'follower' }
    await buildFollower({ upstream, dataDir: follower.dataDir, user: yard.user })
    await follower.start()
    await waitStreaming(admin, 'follower', 20_000)
    const from = await currentLsn(admin)
    await archivedThrough(folder, from, await fill(admin, 1000))
    await receiver.stop()

    // Finished segments that only the follower has when the primary is lost.
    const onFollower = await fill(admin, 2 * segmentBytes)
    const reader = await yard.connect(follower)
    await expect
      .poll(async () => {
        const { rows } = await reader.query<{ lsn: string }>('select pg_last_wal_receive_lsn()::text as lsn')
        return parseLsn(present(rows[0], 'a row').lsn) >= onFollower
      })
      .toBe(true)
    await primary.kill()
    await promote(reader, { dataDir: follower.dataDir, user: yard.user }, 30)
    current = follower
    const again = receive(folder, () => yard.target(current))
    const to = await fill(reader, segmentBytes)
    await expect.poll(() => readFile(folder.historyFile(2), 'utf8').catch(() => '')).toMatch(/^1\t/)
    const history = parseTimelineHistory(2, await readFile(folder.historyFile(2), 'utf8'))
    const audit = await archivedThrough(folder, from, to, history)
    expect(audit.gaps).toEqual([])
    expect(again.events.flatMap((event) => (event.kind === 'timeline_followed' ? [event.timeline] : []))).toEqual([
      1, 2,
    ])
    expect((await auditWal(folder, { history, from }, 'bytes')).checksumFailures).toEqual([])
    await expectServersBytes(folder, follower, await archivedSegments(folder, 2), 2)
    reader.release()
    await again.stop()
    await follower.stop()
    await primary.start()
    admin = await yard.connect(primary)
  })

  test('says that log is lost which the server has no more, goes on behind it, and the audit shows the hole', async () => {
    const folder = newFolder()
    const first = receive(folder)
    const from = await currentLsn(admin)
    await archivedThrough(folder, from, await fill(admin, 1000))
    await first.stop()
    await expect.poll(dropSlots).toBe(0)
    await primary.configure({ ...settings, wal_keep_size: '0', max_wal_size: '8MB', min_wal_size: '8MB' })
    onTestFinished(() => primary.configure(settings))
    await expect.poll(async () => (await admin.query('show wal_keep_size')).rows[0]?.['wal_keep_size']).toBe('0')
    for (let round = 0; round < 4; round++) await fill(admin, segmentBytes)
    await admin.query('checkpoint')
    await fill(admin, 1000)
    await admin.query('checkpoint')
    const again = receive(folder)
    await expect.poll(() => again.events.map(({ kind }) => kind), { timeout: 20_000 }).toContain('log_lost')
    const to = await fill(admin, 1000)
    await expect
      .poll(
        async () =>
          (await auditWal(folder, { history: { timeline: 1, parents: [] }, from: to }, 'names')).contiguousThrough,
      )
      .toBeGreaterThanOrEqual(to)
    const audit = await auditWal(folder, { history: { timeline: 1, parents: [] }, from }, 'names')
    expect(audit.gaps).toHaveLength(1)
    expect(audit.contiguousThrough).toBeLessThan(to)
  })

  test('A6: the log of another cluster is refused', async () => {
    const folder = newFolder()
    await folder.claim({ systemId: '1', segmentBytes })
    const receiver = receive(folder)
    await expect
      .poll(() => receiver.events.map((event) => (event.kind === 'interrupted' ? String(event.error) : event.kind)))
      .toContainEqual(expect.stringContaining('the archive of another cluster'))
    expect(await readdir(folder.path)).toEqual(['archive.json'])
  })
})
