import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { releaseWith } from '../../test/support/releases.ts'
import { more } from '../../test/support/upgrading-fleet.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { Release } from '../postgres/release.ts'
import { nameRelease, packageRelease } from '../postgres/release.ts'
import { loadConfig } from './config.ts'
import { restartNode } from './node-restart.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

/** U2 and V10, on real servers: what one follower lacks at a start keeps nobody from starting, and no gateway is let in on it. */

const payroll = 'eu-west/payroll' as ShardName
const [first, second] = [`${payroll}.2` as NodeId, `${payroll}.3` as NodeId]
vi.setConfig({ testTimeout: 240_000 })

/** One on which the minute is over as soon as a follower has been looked at once more. */
function impatient(): Clock {
  let aheadMs = 0
  return {
    ...systemClock,
    monotonicMs: () => systemClock.monotonicMs() + aheadMs,
    sleep: (ms, until) => {
      if (ms === 20) aheadMs = 60_000
      return systemClock.sleep(ms, until)
    },
  }
}

let root: string
let supervisor: Supervisor
let alarms: string[] = []

async function start(release: Release, clock: Clock = systemClock): Promise<void> {
  const config = await loadConfig(
    {
      fleet: 'admission',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      shards: { [payroll]: { durability: 'quorum', followers: ['eu-central', 'eu-central'] } },
      domains: {},
      tenants: {},
    },
    root,
  )
  const progress = ({ step, detail }: { step: string; detail?: string }) => {
    if (step === 'alarm') alarms.push(detail ?? '')
  }
  supervisor = await Supervisor.start({ config, wan: false, progress, clock, release })
}

beforeEach(async () => {
  alarms = []
  root = await temporaryFolder()
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const node = (id: NodeId) => nodeOf(supervisor.topology.shard(payroll), id)
const ask = (id: NodeId, text: string) =>
  withConnection(supervisor.shardServers.adminTarget(node(id)), (admin) => admin.query(text))

/** The SQLSTATE that keeps gateways out; undefined where they are let in. */
async function refusalAt(id: NodeId): Promise<string | undefined> {
  const target = supervisor.servers.target(node(id), 'holdfast_gateway', 'test')
  try {
    const connection = await Connection.connect(target, 10_000)
    connection.release()
    return undefined
  } catch (error) {
    return (error as { sqlState?: string }).sqlState ?? String(error)
  }
}

test('U2: a follower that does not replay a release keeps no fleet from its start, and gateways out until it has', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  await start(before)
  // It takes the log and acknowledges it, and shows no commit of it.
  await ask(first, `alter system set recovery_min_apply_delay = '1h'`)
  await supervisor.close()
  await start(after, impatient())
  expect(supervisor.topology.shard(payroll)).toMatchObject({ state: 'open', epoch: 2 })
  const told = `${payroll}: ${first} has not replayed release ${nameRelease(after)}: no gateway is let in before it has`
  expect(alarms).toEqual([told])
  expect([await refusalAt(first), await refusalAt(second)]).toEqual(['28000', undefined])
  // Nor where it is started again.
  await restartNode(supervisor, first)
  expect(await refusalAt(first)).toBe('28000')
  await ask(first, 'alter system reset recovery_min_apply_delay')
  await ask(first, 'select pg_reload_conf()')
  await eventually(async () => (await refusalAt(first)) === undefined)
})

test('V10: a follower whose server cannot be started is left out, told, and brought back', async () => {
  await start(await packageRelease())
  const inTheWay = join(supervisor.servers.dataDirOf(node(first).folder), 'holdfast.upstream.conf.next')
  await supervisor.close()
  await mkdir(inTheWay)
  await start(await packageRelease())
  expect(supervisor.topology.shard(payroll).state).toBe('open')
  expect(alarms).toEqual([expect.stringContaining(`${payroll}: the fleet starts without ${first}: `)])
  await rm(inTheWay, { recursive: true })
  await eventually(async () => supervisor.servers.isRunning(first) && (await refusalAt(first)) === undefined, 60_000)
  expect(supervisor.topology.shard(payroll).nodes.map(({ id }) => id)).toContain(first)
})
