import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { archiveOf, currentLsn, start, testShard } from '../../test/support/archive.ts'
import { commitHome } from '../../test/support/archive-shard.ts'
import { FoundedShard } from '../../test/support/founded-shard.ts'
import { systemClock } from '../base/clock.ts'
import { openArchive } from './archive.ts'
import type { ArchiverEvent } from './archiver.ts'
import { Archiver } from './archiver.ts'

let shard: FoundedShard

beforeAll(async () => {
  shard = await FoundedShard.open('local')
})

afterAll(async () => {
  await shard[Symbol.asyncDispose]()
})

function startArchiver(root: string, memoryDir?: string) {
  const events: ArchiverEvent[] = []
  const onEvent = (event: ArchiverEvent) => events.push(event)
  const archiver = new Archiver({
    root,
    shard: testShard,
    primary: shard.target,
    clock: systemClock,
    onEvent,
    ...(memoryDir === undefined ? {} : { memoryDir }),
  })
  const isElected = () => events.filter(({ kind }) => kind === 'elected').length
  return { ...start((signal) => archiver.run(signal)), isElected, events }
}

test('HZ-R2: followers carry the slot of the stream, also one that somebody else made', async ({ skip }) => {
  if (shard.yard.binaries.major < 17) skip('followers do not carry slots')
  const admin = await shard.connect()
  await admin.query(`select pg_create_logical_replication_slot('hf_redo', 'pgoutput')`)
  const archiver = startArchiver(join(shard.yard.root, 'carried'))
  const sql = `select failover, active from pg_replication_slots where slot_name = 'hf_redo'`
  await expect.poll(async () => (await admin.query(sql)).rows).toEqual([{ failover: true, active: true }])
  await archiver.stop()
  const drop = `select pg_drop_replication_slot(slot_name) from pg_replication_slots`
  await vi.waitUntil(
    async () =>
      await admin.query(drop).then(
        () => true,
        () => false,
      ),
  )
  admin.release()
})

test('of several archivers one is elected, and another takes over; a crash of the server stops neither for good', async () => {
  const root = join(shard.yard.root, 'archive')
  const archive = archiveOf(root)
  const archivers = [startArchiver(root), startArchiver(root)]
  await vi.waitUntil(() => archivers.some(({ isElected }) => isElected() > 0), { timeout: 10_000 })
  const admin = await shard.connect()
  const active = 'select from pg_replication_slots where active'
  await vi.waitUntil(async () => (await admin.query(active)).rowCount === 2, { timeout: 10_000 })
  const first = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'one')`])
  const idsNow = async () => {
    const ids: string[] = []
    for await (const { identity } of archive.readRedo()) if (identity.kind === 'home') ids.push(identity.transactionId)
    return ids
  }
  await expect.poll(idsNow, { timeout: 10_000 }).toEqual([first.transactionId])
  expect(archivers.reduce((count, { isElected }) => count + isElected(), 0)).toBe(1)

  const [elected, other] = archivers[0]?.isElected() ? archivers : archivers.toReversed()
  await elected?.stop()
  await vi.waitUntil(() => other?.isElected() === 1, { timeout: 10_000 })
  const second = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'two')`])
  await expect.poll(idsNow, { timeout: 10_000 }).toEqual([first.transactionId, second.transactionId])

  await shard.server.kill()
  await shard.server.start()
  const again = await shard.connect()
  const third = await commitHome(again, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'three')`])
  await expect
    .poll(idsNow, { timeout: 20_000 })
    .toEqual([first.transactionId, second.transactionId, third.transactionId])
  const to = await currentLsn(again)
  await again.query('select pg_switch_wal()')
  const backup = await archive.takeBaseBackup({
    target: shard.target(),
    region: 'eu-west' as never,
    decision: { allowed: true },
  })
  expect(backup.startLsn).toBeGreaterThanOrEqual(to)
  await expect.poll(async () => (await archive.status()).restorable !== null, { timeout: 10_000 }).toBe(true)
  expect(other?.events.filter(({ kind }) => kind === 'redo_lost' || kind === 'log_lost')).toEqual([])
  await other?.stop()
  again.release()
})

test('A8: an archive whose disk is away is not begun anew, and goes on without a hole when it is back', async () => {
  const root = join(shard.yard.root, 'mounted')
  const away = join(shard.yard.root, 'away')
  const memoryDir = join(shard.yard.root, 'journal')
  await mkdir(memoryDir)
  const admin = await shard.connect()
  const archived = async (): Promise<void> => {
    const to = await currentLsn(admin)
    await admin.query('select pg_switch_wal()')
    await expect
      .poll(async () => ((await archiveOf(root).redoThrough())?.lsn ?? 0n) >= to, { timeout: 20_000 })
      .toBe(true)
  }
  const first = startArchiver(root, memoryDir)
  await archived()
  await first.stop()
  await rename(root, away)
  await mkdir(root)

  const second = startArchiver(root, memoryDir)
  const told = { code: 'check_failed', message: expect.stringContaining('not in') as string }
  await expect
    .poll(() => second.events.flatMap((event) => ('error' in event ? [event.error] : [])), { timeout: 20_000 })
    .toContainEqual(expect.objectContaining(told))
  const source = { target: shard.target(), region: 'eu-west' as never, decision: { allowed: true } } as const
  const backup = openArchive({ root, shard: testShard, memoryDir }).takeBaseBackup(source)
  await expect(backup).rejects.toMatchObject(told)
  expect(await readdir(root)).toEqual([])

  await rm(root, { recursive: true })
  await rename(away, root)
  await archived()
  expect(second.events.filter(({ kind }) => kind === 'redo_lost' || kind === 'log_lost')).toEqual([])
  await second.stop()
  admin.release()
})
