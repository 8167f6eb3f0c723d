import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Archiver, redoSlot, requiredServerSettings } from '../../src/archive/archiver.ts'
import type { ArchiverEvent } from '../../src/archive/archiver.ts'
import type { RedoTransaction } from '../../src/archive/redo-transaction.ts'
import { systemClock } from '../../src/base/clock.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { toLsn } from '../../src/postgres/lsn.ts'
import { buildFollower, promote, waitStreaming } from '../../src/postgres/server/follower.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import { archiveOf, currentLsn, readAll, type Running, start, testShard } from '../support/archive.ts'
import { archiveSettings, commitHome, followServer, foundShard, shardTarget } from '../support/archive-shard.ts'
import { ServerYard } from '../support/servers.ts'

const followerName = 'eu-west/payroll.2'
const waiting = { synchronous_standby_names: `ANY 1 ("${followerName}")` }

let yard: ServerYard
let primary: LocalServer
let follower: LocalServer
let root: string

beforeAll(async () => {
  yard = await ServerYard.open()
  root = join(yard.root, 'archive')
  const settings = { ...archiveSettings, ...requiredServerSettings(yard.binaries.major) }
  primary = await yard.primary('primary', settings)
  await foundShard(yard, primary, 'quorum')
  follower = yard.server('follower', settings)
  const upstream = { primary: shardTarget(yard, primary), applicationName: followerName, slot: 'follower' }
  await buildFollower({ upstream, dataDir: follower.dataDir, user: yard.user })
  await follower.start()
  const admin = await connect(primary)
  await waitStreaming(admin, followerName, 20_000)
  await primary.configure({ ...settings, ...waiting })
  admin.release()
})

afterAll(async () => {
  await yard[Symbol.asyncDispose]()
})

function connect(server: LocalServer): Promise<Connection> {
  return Connection.connect(shardTarget(yard, server, 'holdfast_admin'), 10_000)
}

function startArchiver(current: () => LocalServer | undefined): Running & { readonly events: ArchiverEvent[] } {
  const events: ArchiverEvent[] = []
  const archiver = new Archiver({
    root,
    shard: testShard,
    primary: () => {
      const server = current()
      return server && shardTarget(yard, server)
    },
    clock: systemClock,
    onEvent: (event) => events.push(event),
  })
  return { ...start((signal) => archiver.run(signal)), events }
}

function idsOf(transactions: readonly RedoTransaction[]): string[] {
  return transactions.flatMap(({ identity }) => (identity.kind === 'home' ? [identity.transactionId] : []))
}

const insert = (note: string) => `insert into payroll_runs (tenant, status, note) values ('globex-eu', 'x', '${note}')`

describe('the archive of a shard whose primary changes', () => {
  test('A5, HZ-R2: has no transaction that the promotion lost, and every one that it kept, over both timelines', async () => {
    let current: LocalServer | undefined = primary
    const archiver = startArchiver(() => current)
    const archive = archiveOf(root)
    const admin = await connect(primary)
    await expect
      .poll(async () => (await admin.query(`select from pg_stat_replication where sync_state = 'quorum'`)).rowCount)
      .toBe(1)
    await expect.poll(async () => (await admin.query(`select from pg_replication_slots where active`)).rowCount).toBe(3)
    const kept: string[] = []
    for (let round = 0; round < 10; round++)
      kept.push((await commitHome(admin, [insert(`kept ${round}`)])).transactionId)
    await expect.poll(async () => idsOf(await readAll(archive))).toEqual(kept)
    const reader = await connect(follower)
    await expect
      .poll(
        async () =>
          (
            await reader.query(`select from pg_replication_slots where slot_name = $1 and synced and not temporary`, [
              redoSlot,
            ])
          ).rowCount,
        { timeout: 120_000 },
      )
      .toBe(1)

    // What the follower did not take before it went away is lost with the primary.
    reader.release()
    await follower.kill()
    const from = await currentLsn(admin)
    const victim = await connect(primary)
    const lost = commitHome(victim, [insert('never acknowledged')]).then(
      () => 'acknowledged',
      () => 'not acknowledged',
    )
    // The decoder has sent it, and the archive has looked at the followers since.
    await expect
      .poll(async () => {
        const { rows } = await admin.query<{ sent: bigint }>(
          `select (sent_lsn - '0/0')::bigint as sent from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
           where s.slot_name = $1`,
          [redoSlot],
        )
        return toLsn(BigInt(rows[0]?.sent ?? 0)) > from
      })
      .toBe(true)
    await systemClock.sleep(500)
    expect(idsOf(await readAll(archive))).toEqual(kept)
    expect((await archive.redoThrough())?.lsn).toBeLessThanOrEqual(await currentLsn(admin))

    current = undefined
    await primary.kill()
    expect(await lost).toBe('not acknowledged')
    await follower.start()
    const successor = await connect(follower)
    await promote(successor, { dataDir: follower.dataDir, user: yard.user }, 30)
    current = follower
    const next = await followServer(yard, follower, {
      ...archiveSettings,
      ...requiredServerSettings(yard.binaries.major),
    })
    for (let round = 0; round < 5; round++)
      kept.push((await commitHome(successor, [insert(`after ${round}`)])).transactionId)
    await expect.poll(async () => idsOf(await readAll(archive)), { timeout: 30_000 }).toEqual(kept)
    expect(archiver.events.filter(({ kind }) => kind === 'redo_lost' || kind === 'log_lost')).toEqual([])
    const history = await archive.timelineHistory()
    expect(history.timeline).toBe(2)
    await successor.query('select pg_switch_wal()')
    await successor.query(insert('the next segment'))
    await archiver.stop()
    expect((await archive.verify()).problems).toEqual([])
    successor.release()
    await next.stop()
  })
})
