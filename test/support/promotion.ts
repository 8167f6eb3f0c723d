import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { Epoch, FleetNode, HistoryId, ShardName } from '../../src/directory/topology.ts'
import { planPromotion } from '../../src/failover/failover.ts'
import { slotName, synchronousStandbyNames } from '../../src/fleet/node-settings.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { upstreamFile, writeSettings } from '../../src/postgres/server/data-directory.ts'
import { createSlot, follow, promote, waitSilent, waitStreaming } from '../../src/postgres/server/follower.ts'
import { passBarrier } from '../../src/transaction/barrier.ts'
import { acknowledgedBy, startAcknowledging, untilInForce } from './acknowledging-follower.ts'
import type { Running } from './archive.ts'
import type { TestShards } from './shards.ts'

/**
 * Promotes the most advanced follower of a shard by the rule of `failover/failover.ts`, and lets the others follow it. The old
 * primary is not touched: who does this may not reach it. The last follower left gets one that only acknowledges.
 */
export async function promoteBeside(cluster: TestShards, name: ShardName, followers: Running[]): Promise<FleetNode> {
  const before = cluster.shard(name)
  const candidates = await Promise.all(
    before.followers.map(async (node) => {
      const server = cluster.server(node.id)
      await writeSettings(server.dataDir, {}, cluster.user, upstreamFile)
      server.reload()
      const received = await waitSilent(cluster.target(node), { stallMs: 20_000, withinMs: 60_000 })
      return { id: node.id, region: node.region, counted: true, received }
    }),
  )
  const plan = planPromotion(candidates, 1, [...new Set(candidates.map(({ region }) => region))])
  if (plan.kind !== 'promote') throw new Error(`no promotion is safe: ${plan.kind}`)
  const target = present(
    before.followers.find(({ id }) => id === plan.promote),
    'it is one of them',
  )
  const rest = before.followers.filter(({ id }) => id !== target.id)
  const [epoch, historyId] = [(before.epoch + 1) as Epoch, newRandomUuid() as HistoryId]
  await withConnection(cluster.target(target), async (admin) => {
    await promote(admin, { dataDir: cluster.server(target.id).dataDir, user: cluster.user }, 60)
    await admin.query('set synchronous_commit = local')
    const open = `call holdfast.open_history($1, $2, pg_current_wal_lsn(), 'promotion', '{}')`
    await admin.query(open, [historyId, epoch])
    for (const node of rest) await followNext(cluster, target, node)
    for (const node of rest) await waitStreaming(admin, node.id, 60_000, systemClock)
  })
  if (rest.length === 0) followers.push(startAcknowledging(cluster.target(target)))
  const names =
    rest.length === 0
      ? acknowledgedBy
      : synchronousStandbyNames({ durability: 'quorum', survive: 'node' }, target.region, rest)
  await nameFollowers(cluster, target, names)
  await withConnection(cluster.target(target), async (admin) => {
    await admin.query('call holdfast.open_shard($1)', [epoch])
    await passBarrier(admin, target.id, 30_000)
  })
  cluster.replaceShard({ ...before, epoch, historyId, primary: { ...target, role: 'primary' }, followers: rest })
  return target
}

/** From here on the commits of a node wait for these. */
export async function nameFollowers(cluster: TestShards, node: FleetNode, names: string): Promise<void> {
  await withConnection(cluster.target(node), async (admin) => {
    await admin.query(`alter system set synchronous_standby_names = '${names}'`)
    await admin.query('select pg_reload_conf()')
  })
  await untilInForce(cluster.target(node), names)
}

async function followNext(cluster: TestShards, source: FleetNode, node: FleetNode): Promise<void> {
  const upstream = {
    primary: cluster.target(source, 'holdfast_replication'),
    applicationName: node.id,
    slot: slotName(node.id),
  }
  await createSlot(upstream.primary, upstream.slot)
  const server = cluster.server(node.id)
  await follow(server.dataDir, upstream, cluster.user)
  server.reload()
}
