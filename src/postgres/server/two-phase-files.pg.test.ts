import { execFile } from 'node:child_process'
import { copyFile, cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ServerYard } from '../../../test/support/servers.ts'
import { present } from '../../base/assert.ts'
import type { Connection } from '../connection.ts'
import { formatLsn } from '../lsn.ts'
import { giveTo } from './data-directory.ts'
import { buildFollower } from './follower.ts'
import type { LocalServer } from './local-server.ts'
import type { ReadLog } from './two-phase-files.ts'
import { checkpointRecordBytes, discardEarlyStates, discardStatesBehindBackup } from './two-phase-files.ts'

/** HZ-X8, on the very servers: a prepared transaction is there behind every recovery. */

const settings = { wal_level: 'replica', max_wal_senders: 10, max_replication_slots: 10, max_prepared_transactions: 10 }

let yard: ServerYard

beforeAll(async () => {
  yard = await ServerYard.open()
})

afterAll(async () => {
  await yard[Symbol.asyncDispose]()
})

async function primary(name: string): Promise<{ server: LocalServer; admin: Connection }> {
  const server = await yard.primary(name, settings)
  const admin = await yard.connect(server)
  await admin.query('create table item (id int)')
  await admin.query('checkpoint')
  return { server, admin }
}

/** A branch whose transaction id no checkpoint has heard of yet. */
async function prepareLater(admin: Connection, gid: string): Promise<void> {
  for (let n = 0; n < 5; n++) await admin.query('select pg_current_xact_id()')
  await admin.script(`begin; insert into item values (1); prepare transaction '${gid}'`)
}

const prepared = async (server: LocalServer) => {
  const admin = await yard.connect(server)
  const { rows } = await admin.query<{ gid: string }>('select gid from pg_prepared_xacts order by gid')
  admin.release()
  return rows.map(({ gid }) => gid)
}

const stateFiles = (dataDir: string) => readdir(join(dataDir, 'pg_twophase'))

/** Leaves on disk what a crash leaves between the files of a checkpoint and its record in the control file. */
async function crashInCheckpoint(server: LocalServer, admin: Connection): Promise<void> {
  const [control, before] = [join(server.dataDir, 'global', 'pg_control'), join(yard.root, 'pg_control')]
  await prepareLater(admin, 'early')
  await admin.query('checkpoint')
  await copyFile(control, before)
  await prepareLater(admin, 'late')
  await admin.query('checkpoint')
  expect(await stateFiles(server.dataDir)).toHaveLength(2)
  admin.destroy()
  await server.kill()
  await copyFile(before, control)
}

test('L4: a branch is there after a crash in the middle of the checkpoint that wrote it down', async () => {
  const { server, admin } = await primary('crashed')
  await crashInCheckpoint(server, admin)
  await server.start()
  expect(await prepared(server)).toEqual(['early', 'late'])
  const again = await yard.connect(server)
  for (const gid of ['early', 'late']) await again.query(`commit prepared '${gid}'`)
  expect((await again.query('select from item')).rowCount).toBe(2)
  again.release()
  await server.stop('immediate')
})

test('nothing is removed that a recovery needs', async () => {
  const { server, admin } = await primary('stopped')
  for (const gid of ['a', 'b']) {
    await prepareLater(admin, gid)
    await admin.query('checkpoint')
  }
  admin.destroy()
  for (const mode of ['fast', 'immediate'] as const) {
    await server.stop(mode)
    expect(await discardEarlyStates(server.dataDir)).toEqual([])
    await server.start()
    expect(await prepared(server)).toEqual(['a', 'b'])
  }
  await server.stop('immediate')
})

describe('a base backup that outlasts a checkpoint', () => {
  function readLog(server: LocalServer): ReadLog {
    return async (at) => {
      const admin = await yard.connect(server)
      const { rows } = await admin.query<{ name: string }>('select pg_walfile_name($1) as name', [formatLsn(at)])
      admin.release()
      const segment = await readFile(join(server.dataDir, 'pg_wal', present(rows[0], 'a name').name))
      // The header of its first page says how long a segment is.
      const segmentBytes = segment.readUInt32LE(32)
      const from = Number(at % BigInt(segmentBytes))
      return { bytes: segment.subarray(from, from + checkpointRecordBytes), segmentBytes }
    }
  }

  /** A copy of the files, taken while branches were prepared and written down. */
  async function copied(server: LocalServer, admin: Connection, name: string): Promise<LocalServer> {
    const copy = yard.server(name, { ...settings, restore_command: `cp ${server.dataDir}/pg_wal/%f %p` })
    await prepareLater(admin, 'early')
    await admin.query(`select pg_backup_start('copy', true)`)
    await prepareLater(admin, 'late')
    await admin.query('checkpoint')
    await promisify(execFile)('cp', ['-a', server.dataDir, copy.dataDir])
    const { rows } = await admin.query<{ label: string }>('select labelfile as label from pg_backup_stop(false)')
    await rm(join(copy.dataDir, 'postmaster.pid'))
    await rm(join(copy.dataDir, 'pg_wal'), { recursive: true })
    await cp(join(server.dataDir, 'pg_wal'), join(copy.dataDir, 'pg_wal'), { recursive: true })
    for (const [file, text] of [
      ['backup_label', present(rows[0], 'a label').label],
      ['recovery.signal', ''],
    ] as const) {
      await writeFile(join(copy.dataDir, file), text)
      await giveTo(yard.user, join(copy.dataDir, file))
    }
    await promisify(execFile)('chown', ['-R', `--reference=${server.dataDir}`, join(copy.dataDir, 'pg_wal')])
    expect(await stateFiles(copy.dataDir)).toHaveLength(2)
    return copy
  }

  test.each([
    ['has every branch behind its recovery', ['early', 'late'], discardStatesBehindBackup],
    ['is not told of by PostgreSQL, which leaves out those of its time', ['early'], () => Promise.resolve([])],
  ] as const)('%s', async (_, expected, remedy) => {
    const { server, admin } = await primary(`source-${expected.length}`)
    const copy = await copied(server, admin, `copy-${expected.length}`)
    await remedy(copy.dataDir, readLog(server))
    await copy.start()
    await expect.poll(() => prepared(copy)).toEqual(expected)
    await copy.stop('immediate')
    admin.release()
    await server.stop('immediate')
  })

  test('is refused where the log does not have its checkpoint', async () => {
    const { server, admin } = await primary('without-log')
    const copy = await copied(server, admin, 'refused')
    const nothing = () => Promise.resolve({ bytes: Buffer.alloc(200), segmentBytes: 1 << 20 })
    await expect(discardStatesBehindBackup(copy.dataDir, nothing)).rejects.toMatchObject({ code: 'check_failed' })
    admin.release()
    await server.stop('immediate')
  })
})

test('a follower that is built while branches stand has them when it is promoted', async () => {
  const { server, admin } = await primary('followed')
  await prepareLater(admin, 'early')
  await admin.query('checkpoint')
  const follower = yard.server('follower', settings)
  const upstream = { primary: yard.target(server), applicationName: 'follower', slot: 'hf_follower' }
  await buildFollower({ upstream, dataDir: follower.dataDir, user: yard.user })
  await prepareLater(admin, 'late')
  await follower.start()
  const { rows } = await admin.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
  const reader = await yard.connect(follower)
  const replayed = async () =>
    (await reader.query('select pg_last_wal_replay_lsn() >= $1::pg_lsn as yes', [rows[0]?.lsn])).rows[0]?.['yes']
  await expect.poll(replayed).toBe(true)
  await reader.query('select pg_promote(true, 60)')
  reader.release()
  expect(await prepared(follower)).toEqual(['early', 'late'])
  await follower.stop('immediate')
  admin.release()
  await server.stop('immediate')
})
