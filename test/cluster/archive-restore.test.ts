import { open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { ShardArchive } from '../../src/archive/archive.ts'
import { Archiver } from '../../src/archive/archiver.ts'
import type { BaseBackupEntry } from '../../src/archive/base-backups.ts'
import type { RedoTransaction } from '../../src/archive/redo-transaction.ts'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import type { RegionName } from '../../src/directory/topology.ts'
import { Connection } from '../../src/postgres/connection.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import { formatLsn, parseLsn } from '../../src/postgres/lsn.ts'
import { giveTo } from '../../src/postgres/server/data-directory.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import { archiveOf, currentLsn, redoUpTo, type Running, start, testShard } from '../support/archive.ts'
import { archiveSettings, commitHome, decide, prepareBranch } from '../support/archive-shard.ts'
import { connectAdmin, FoundedShard } from '../support/founded-shard.ts'

const region = 'eu-west' as RegionName

let shard: FoundedShard
let admin: Connection
let root: string
let archive: ShardArchive
let archiver: Running
let backup: BaseBackupEntry
let restores = 0

beforeAll(async () => {
  shard = await FoundedShard.open('quorum')
  admin = shard.admin
  root = shard.root
  archive = archiveOf(root)
  const both = new Archiver({
    root,
    shard: testShard,
    primary: shard.target,
    clock: systemClock,
    onEvent: () => undefined,
  })
  archiver = start((signal) => both.run(signal))
  await shard.streaming(2)
  await commitHome(admin, [insert('before the backup')])
  backup = await archive.takeBaseBackup({ target: shard.target(), region, decision: { allowed: true } })
})

afterAll(async () => {
  await archiver.stop()
  await shard[Symbol.asyncDispose]()
})

const insert = (note: string) => `insert into payroll_runs (tenant, status, note) values ('globex-eu', 'x', '${note}')`

/** Waits until log and redo stream have everything of this moment. */
async function archived(): Promise<RedoTransaction[]> {
  const to = await currentLsn(admin)
  await admin.query('select holdfast.publish_closed(holdfast.tick(holdfast.wall_hlc()))')
  const transactions = await redoUpTo(archive, to)
  const range = { history: await archive.timelineHistory(), from: backup.startLsn }
  while ((await archive.auditWal(range, 'names')).contiguousThrough < to) await systemClock.sleep(10)
  return transactions
}

/** Recovers the base backup with staged log to a stop, and pauses there. */
async function restore(stop: Lsn, to: Lsn, inclusive = false): Promise<{ server: LocalServer; reader: Connection }> {
  const name = `restored-${restores++}`
  const wal = join(shard.yard.root, `${name}.wal`)
  const server = shard.yard.server(name, {
    ...archiveSettings,
    restore_command: `cp ${wal}/%f %p`,
    recovery_target_lsn: formatLsn(stop),
    recovery_target_inclusive: inclusive,
    recovery_target_action: 'pause',
    recovery_target_timeline: String(backup.timeline),
  })
  await archive.extractBaseBackup(backup.id, server.dataDir, shard.yard.user)
  const range = { history: await archive.timelineHistory(backup.timeline), from: backup.startLsn, to }
  await archive.stageWal(wal, range, shard.yard.user)
  const marker = join(server.dataDir, 'recovery.signal')
  await writeFile(marker, '')
  await giveTo(shard.yard.user, marker)
  onTestFinished(() => server.stop('immediate').then(() => undefined))
  await server.start()
  const reader = await connectAdmin(shard.yard, server)
  onTestFinished(() => reader.release())
  await expect
    .poll(async () => (await reader.query('select pg_get_wal_replay_pause_state() as s')).rows[0]?.['s'])
    .toBe('paused')
  return { server, reader }
}

async function notes(reader: Connection): Promise<unknown[]> {
  const { rows } = await reader.query<{ note: string }>('select note from payroll_runs order by id')
  return rows.map(({ note }) => note)
}

function find(transactions: readonly RedoTransaction[], id: string): RedoTransaction {
  const found = transactions.find(({ identity }) => 'transactionId' in identity && identity.transactionId === id)
  return present(found, `transaction ${id} is in the stream`)
}

describe('a restore from the archive', () => {
  test('HZ-A3: stops just before the first commit to be left out, and with an inclusive stop it would not', async () => {
    const kept = await commitHome(admin, [insert('kept')])
    const excluded = await commitHome(admin, [insert('excluded')])
    await commitHome(admin, [insert('later')])
    const transactions = await archived()
    const { commitLsn, endLsn } = find(transactions, excluded.transactionId)
    expect(find(transactions, kept.transactionId).endLsn).toBeLessThanOrEqual(commitLsn)

    const exact = await restore(commitLsn, endLsn)
    expect(await notes(exact.reader)).toEqual(['before the backup', 'kept'])
    const wrong = await restore(commitLsn, endLsn, true)
    expect(await notes(wrong.reader)).toEqual(['before the backup', 'kept', 'excluded'])
  })

  test('HZ-A3: stops before a commit whose record goes over into the next segment', async () => {
    const writer = await shard.connect()
    onTestFinished(() => writer.release())
    await writer.query('begin')
    // The record of the commit names every part of the transaction: four kilobytes.
    await writer.query(`do $$ begin for i in 1..1000 loop
      begin insert into payroll_runs (tenant, status, note) values ('globex-eu', 'x', 'over'); exception when others then raise; end;
    end loop; end $$`)
    // The log goes on from two kilobytes before the end of a segment; what else is written moves it by less.
    await admin.query('select pg_switch_wal()')
    await admin.query(`select pg_logical_emit_message(false, 'fill', repeat('x', (rest - rest / 8192 * 24 - 2000)::int))
      from (select s.bytes - (pg_current_wal_insert_lsn() - '0/0')::bigint % s.bytes as rest
            from (select setting::bigint as bytes from pg_settings where name = 'wal_segment_size') s) r`)
    await writer.query('commit')
    const { commitLsn, endLsn } = present((await archived()).at(-1), 'a transaction')
    const segment = async (lsn: Lsn) =>
      (await admin.query<{ name: string }>('select pg_walfile_name($1) as name', [formatLsn(lsn)])).rows[0]?.name
    expect(await segment(commitLsn)).not.toBe(await segment(endLsn))
    const { reader } = await restore(commitLsn, commitLsn)
    expect(await notes(reader)).not.toContain('over')
  })

  test('HZ-A4: positions follow the order of commits where transaction ids do not', async () => {
    const [early, late] = [await shard.connect(), await shard.connect()]
    await early.query('begin')
    await early.query(insert('lower xid, commits last'))
    await commitHome(late, [insert('higher xid, commits first')])
    await early.query('commit')
    const transactions = await archived()
    const [first, second] = transactions.slice(-2)
    expect(present(first, 'two').xid).toBeGreaterThan(present(second, 'two').xid)
    const { reader } = await restore(present(second, 'two').commitLsn, present(second, 'two').endLsn)
    expect((await notes(reader)).at(-1)).toBe('higher xid, commits first')
    early.release()
    late.release()
  })

  test('keeps a branch in doubt when it stops between its prepare and its commit', async () => {
    const branch = await prepareBranch(admin, [insert('in doubt')])
    await decide(admin, branch.transactionId, 1n)
    await admin.query(`commit prepared '${branch.gid}'`)
    const { commitLsn, endLsn } = find(await archived(), branch.transactionId)
    const { reader } = await restore(commitLsn, endLsn)
    expect(await notes(reader)).not.toContain('in doubt')
    // A server in recovery does not list what is prepared; its log says so once it is promoted (HZ-X7).
    await reader.query('select pg_wal_replay_resume()')
    await expect
      .poll(async () => (await reader.query('select gid from pg_prepared_xacts')).rows, { timeout: 20_000 })
      .toEqual([{ gid: branch.gid }])
  })

  test('HZ-T2: that is promoted takes a timeline number that the shard has not used', async () => {
    await commitHome(admin, [insert('the last one')])
    const last = present((await archived()).at(-1), 'a transaction')
    const taken = join(archive.path, 'wal', '00000002.history')
    await writeFile(taken, `1\t${formatLsn(last.endLsn)}\tanother restore\n`)
    onTestFinished(() => rm(taken))
    expect((await archive.timelineHistory()).timeline).toBe(2)
    const { reader } = await restore(last.commitLsn, last.endLsn)
    await reader.query('select pg_wal_replay_resume()')
    await expect
      .poll(async () => (await reader.query('select pg_is_in_recovery() as r')).rows[0]?.['r'], { timeout: 20_000 })
      .toBe(false)
    const { rows } = await reader.query<{ name: string }>('select pg_walfile_name(pg_current_wal_lsn()) as name')
    expect(rows[0]?.name.slice(0, 8)).toBe('00000003')
  })

  test('HZ-A2: is refused when a segment is missing or damaged on the way, before a server is started', async () => {
    await admin.query('select pg_switch_wal()')
    await commitHome(admin, [insert('behind the gap')])
    const last = present((await archived()).at(-1), 'a transaction')
    const folder = join(archive.path, 'wal', '00000001')
    const names = (await readdir(folder)).filter((name) => /^[0-9A-F]{24}$/.test(name))
    const { rows } = await admin.query<{ name: string }>('select pg_walfile_name($1) as name', [
      formatLsn(backup.stopLsn),
    ])
    const gone = present(
      names.find((name) => name > present(rows[0], 'a name').name),
      'a segment behind the backup',
    )
    const range = { history: await archive.timelineHistory(), from: backup.startLsn, to: last.endLsn }
    const refused = (error: unknown) => isHoldfastError(error, 'archive_gap')

    await rename(join(folder, gone), join(shard.yard.root, gone))
    await expect(archive.stageWal(join(shard.yard.root, 'gap'), range, shard.yard.user)).rejects.toSatisfy(refused)
    const { restorable } = await archive.status()
    expect(present(restorable, 'some ground').through).toBeLessThan(last.endLsn)
    expect((await archive.verify()).ok).toBe(false)

    const content = await readFile(join(shard.yard.root, gone))
    content[100_000] = (content[100_000] ?? 0) ^ 1
    await writeFile(join(folder, gone), content)
    await expect(archive.stageWal(join(shard.yard.root, 'flipped'), range, shard.yard.user)).rejects.toSatisfy(refused)

    await rename(join(shard.yard.root, gone), join(folder, gone))
    expect((await archive.verify()).problems).toEqual([])
    expect(parseLsn(formatLsn(present((await archive.status()).restorable, 'ground').through))).toBeGreaterThanOrEqual(
      last.endLsn,
    )
  })
})

describe('base backups', () => {
  test('are refused in a region that is not legal for the shard, with the policy that says so', async () => {
    const decision = { allowed: false, question: { holding: 'backup', region }, refusals: [] } as const
    const source = { target: shard.target(), region, decision }
    await expect(archive.takeBaseBackup(source)).rejects.toSatisfy((error) =>
      isHoldfastError(error, 'residency_denied'),
    )
    expect((await archive.listBaseBackups()).map(({ id }) => id)).toEqual([backup.id])
  })

  test('whose bytes changed are named by the verification and not unpacked', async () => {
    const path = join(archive.path, 'base', backup.id, 'base.tar')
    const file = await open(path, 'r+')
    const bytes = Buffer.alloc(1 << 16)
    await file.read(bytes, 0, bytes.length, 1 << 20)
    const flip = async () => {
      for (const [index, byte] of bytes.entries()) bytes[index] = byte ^ 1
      await file.write(bytes, 0, bytes.length, 1 << 20)
    }
    await flip()
    expect((await archive.verify()).problems).toEqual([`base.tar of base backup ${backup.id} has another checksum`])
    await expect(
      archive.extractBaseBackup(backup.id, join(shard.yard.root, 'damaged'), shard.yard.user),
    ).rejects.toSatisfy((error) => isHoldfastError(error, 'check_failed'))
    await flip()
    await file.close()
    expect((await archive.verify()).problems).toEqual([])
  })
})
