import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import type { ElectedKeeper } from '../support/clock-keepers.ts'
import { electedKeeper } from '../support/clock-keepers.ts'
import { eventually } from '../support/eventually.ts'
import { TestFleet } from '../support/fleet.ts'
import { GatewayProcess } from '../support/gateway-process.ts'

/** The gateway that keeps a shard's clock is stopped, killed, or cut off: another one closes. */

const shard = 'eu-west/payroll'

let fleet: TestFleet
let admin: Connection
let other: Gateway
let processes: GatewayProcess[] = []

beforeAll(async () => {
  fleet = await TestFleet.open({ wan: 0.02 })
  admin = await fleet.connect(shard, 'holdfast_admin')
})

afterEach(async () => {
  for (const gateway of processes) await gateway.stop()
  processes = []
  await other.close()
})

afterAll(async () => {
  admin?.release()
  await fleet?.close()
})

async function value(sql: string, values: readonly unknown[] = []): Promise<bigint> {
  const { rows } = await admin.query<{ value: string }>(`select (${sql})::bigint as value`, values)
  return BigInt(present(rows[0], 'a row').value)
}

const elected = () => electedKeeper(admin)

async function keptFrom(region: string): Promise<ElectedKeeper> {
  await eventually(async () => (await elected())?.name.startsWith(`gateway-${region}`) === true)
  return present(await elected(), 'somebody keeps')
}

async function startProcess(region: string): Promise<GatewayProcess> {
  const gateway = await GatewayProcess.start({ dataDir: fleet.config.dataDir, region })
  processes.push(gateway)
  return gateway
}

async function expectClosing(): Promise<void> {
  const drawn = await value('holdfast.draw()')
  await eventually(async () => (await value('select closed_timestamp from holdfast.closed')) >= drawn)
}

describe('the keeper', () => {
  test.each(['SIGSTOP', 'SIGKILL'] as const)('in a process that gets %s is followed by another', async (signal) => {
    const near = await startProcess('eu-west')
    const before = await keptFrom('eu-west')
    await expectClosing()
    other = await fleet.gateway('us-east')
    near.kill(signal)
    await keptFrom('us-east')
    await expectClosing()
    if (signal === 'SIGKILL') {
      expect(await near.ended()).toBe('SIGKILL')
      return
    }
    // It finds its session ended, waits as a candidate beside the primary, and is given the place again.
    near.kill('SIGCONT')
    const after = await keptFrom('eu-west')
    expect(after.pid).not.toBe(before.pid)
    await expectClosing()
  })

  test('whose link is cut is followed by another', async () => {
    // No follower of the shard is on the other side of this link, so that commits do not wait for it.
    other = await fleet.gateway('us-east')
    await keptFrom('us-east')
    await expectClosing()
    const faults = fleet.faults(other)
    await startProcess('eu-central')
    await faults.cutLink('us-east', 'eu-west')
    await keptFrom('eu-central')
    await expectClosing()
    await faults.healLink('us-east', 'eu-west')
  })
})
