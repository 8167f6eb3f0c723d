import { rm } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { present } from '../base/assert.ts'
import { silentProgress } from '../base/progress.ts'
import type { Epoch, HistoryId, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { loadConfig } from './config.ts'
import { failOver } from './operations/failover.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

const payroll = 'eu-west/payroll' as ShardName
const historyId = '018f4a7e-0000-7000-8000-000000000002' as HistoryId

let root: string
let supervisor: Supervisor

/** One shard, and one follower, which every commit waits for. */
async function start(): Promise<Supervisor> {
  const config = await loadConfig(
    {
      fleet: 'promotion',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      shards: { [payroll]: { durability: 'quorum', followers: ['eu-central'], survive: 'region' } },
      domains: {},
      tenants: {},
    },
    root,
  )
  return Supervisor.start({ config, wan: false, progress: silentProgress })
}

async function ask<R>(text: string): Promise<R> {
  const shard = supervisor.topology.shard(payroll)
  const { rows } = await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query<R & Record<string, unknown>>(text),
  )
  return present(rows[0], 'one row')
}

beforeEach(async () => {
  root = await temporaryFolder()
  supervisor = await start()
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

/** What the topology says just before the follower is promoted. */
async function beginPromotion(): Promise<void> {
  const shard = supervisor.topology.shard(payroll)
  const [old, target] = shard.nodes
  await supervisor.servers.stop(shard.primary, 'fast')
  await supervisor.topology.replaceShard(payroll, {
    ...shard,
    state: 'fenced',
    epoch: 2 as Epoch,
    historyId,
    primary: present(target, 'a follower').id,
    nodes: [present(target, 'a follower')],
    promotion: { forkLsn: '0/3000000' },
    retired: [{ node: present(old, 'a primary'), successor: shard.nextNode }],
    nextNode: shard.nextNode + 1,
  })
}

test('V4: a promotion that a crash broke off is finished by the next start, and commits wait for a follower', async () => {
  await beginPromotion()
  await supervisor.close()
  supervisor = await start()
  const shard = supervisor.topology.shard(payroll)
  expect(shard).toMatchObject({ state: 'open', epoch: 2, historyId, primary: `${payroll}.2` })
  expect(shard.nodes.map(({ id }) => id)).toEqual([`${payroll}.2`, `${payroll}.3`])
  expect(shard.promotion).toBeUndefined()
  expect(await ask('select epoch, history_id, state from holdfast.shard')).toMatchObject({ epoch: 2, state: 'open' })
  expect(await ask('show synchronous_standby_names')).toEqual({
    synchronous_standby_names: `ANY 1 ("${payroll}.3")`,
  })
})

test('V4: and by the next failover of the shard, once', async () => {
  await beginPromotion()
  const { promoted } = await failOver(supervisor, { shard: payroll }, silentProgress)
  expect(promoted).toEqual({ node: `${payroll}.2`, region: 'eu-central', epoch: 2, historyId })
  expect(await ask('select count(*)::int as histories from holdfast.history')).toEqual({ histories: 2 })
  expect(supervisor.topology.shard(payroll).state).toBe('open')
})

test('a shard that a cutover left closed keeps no fleet from starting', async () => {
  const shard = supervisor.topology.shard(payroll)
  const primary = nodeOf(shard, shard.primary)
  await withConnection(supervisor.shardServers.adminTarget(primary), (admin) => admin.query('select holdfast.fence(2)'))
  await supervisor.topology.replaceShard(payroll, {
    ...shard,
    epoch: 2 as Epoch,
    state: 'fenced',
    nodes: [primary],
  })
  await supervisor.close()
  supervisor = await start()
  expect(supervisor.topology.shard(payroll).state).toBe('fenced')
})
