import { rm } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { silentProgress } from '../base/progress.ts'
import type { ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { packageRelease } from '../postgres/release.ts'
import { storeJournal } from '../recovery/cutover-journal.ts'
import { EnvironmentRegistry } from '../recovery/environment.ts'
import { loadConfig } from './config.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

/** A start behind a cutover that was broken off at its fence, of which the topology was never told. */

const payroll = 'eu-west/payroll' as ShardName
const environment = 'back-then'

let root: string
let supervisor: Supervisor

async function start(): Promise<void> {
  const config = await loadConfig(
    {
      fleet: 'held',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU', archive: `${root}/archive` } },
      shards: { [payroll]: { durability: 'local', followers: [] } },
      domains: {},
      tenants: {},
    },
    root,
  )
  supervisor = await Supervisor.start({
    config,
    wan: false,
    progress: silentProgress,
    release: await packageRelease(),
  })
}

beforeEach(async () => {
  root = await temporaryFolder()
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const primary = () => nodeOf(supervisor.topology.shard(payroll), supervisor.topology.shard(payroll).primary)

async function connectAsGateway(): Promise<void> {
  const target = supervisor.servers.target(primary(), 'holdfast_gateway', 'test')
  const connection = await Connection.connect(target, 10_000)
  connection.release()
}

test('F2, R9: the shard stays closed and says so, until the cutover is given up', async () => {
  await start()
  const { epoch } = supervisor.topology.shard(payroll)
  const registry = new EnvironmentRegistry(supervisor.home.environmentsDir)
  await registry.store({
    id: environment,
    createdAt: '2026-04-01T06:00:00Z',
    state: 'restored',
    target: { kind: 'end' },
    without: [],
    shards: [],
    report: null,
    isDrill: false,
  })
  await storeJournal(registry.folderOf(environment), {
    state: 'fencing',
    standings: [{ shard: payroll, epoch, isAlive: true }],
  })
  await withConnection(supervisor.shardServers.adminTarget(primary()), (admin) =>
    admin.query('select holdfast.fence($1)', [epoch + 1]),
  )
  expect(supervisor.topology.shard(payroll)).toMatchObject({ state: 'open' })
  await supervisor.close()

  await start()
  expect(supervisor.topology.shard(payroll)).toMatchObject({ state: 'fenced', epoch })
  await expect(connectAsGateway()).rejects.toThrow()
  await callTo(supervisor)('cutover.abandon', { environment }, silentProgress)
  expect(supervisor.topology.shard(payroll)).toMatchObject({ state: 'open', epoch: epoch + 1 })
  await connectAsGateway()
  await supervisor.close()

  await start()
  expect(supervisor.topology.shard(payroll)).toMatchObject({ state: 'open', epoch: epoch + 1 })
})
