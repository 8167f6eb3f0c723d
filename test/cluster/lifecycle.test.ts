import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import { exitCodes } from '../../src/cli/output.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { ShardConfigInput } from '../../src/fleet/config.ts'
import { openFleet, quietRuntime, resolveConfig, startFleet } from '../../src/fleet/fleet.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { Command } from '../support/command.ts'
import { temporaryFolder } from '../support/fleet.ts'
import { oneShard, shard, tenant } from '../support/one-shard.ts'

/** `holdfast up` as its user meets it: started, stopped, killed, started again, started twice. */

let root: string
let configFile: string
const commands: Command[] = []

const start = (...args: string[]) => {
  const command = new Command([...args, '--config', configFile, '--json'])
  commands.push(command)
  return command
}

beforeEach(async () => {
  root = await temporaryFolder()
  configFile = join(root, 'holdfast.yaml')
})

async function configure(how: ShardConfigInput): Promise<void> {
  await writeFile(configFile, stringify(await oneShard(root, how)))
}

afterEach(async () => {
  for (const { child, ended } of commands.splice(0)) {
    child.kill('SIGTERM')
    await ended
  }
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const processes = async () => (await leftBehind(root)).filter((what) => what !== root)

test('up: a second one is refused with who holds it; Ctrl-C stops everything; killed, it is found and recovered', async () => {
  await configure({ durability: 'quorum', followers: ['eu-west', 'eu-central'], survive: 'region' })
  const first = start('up')
  const { gateways } = await first.ready()
  expect(gateways.map(({ region }) => region).toSorted()).toEqual(['eu-central', 'eu-west', 'us-east'])
  for (const { url } of gateways) expect((await fetch(new URL('/readyz', url))).status).toBe(200)
  expect(await processes()).not.toEqual([])

  const second = await start('up').ended
  expect(second.code).toBe(5)
  expect(JSON.parse(second.stdout)).toMatchObject({
    error: { code: 'fleet_locked', message: `the data directory is held by process ${first.child.pid}` },
  })

  // As the process dies that owns the servers: they, and the gateways, are on their own.
  const attached = await openFleet({ dataDir: join(root, 'data'), region: 'eu-west' })
  const { transactionId } = await attached.transact(
    { tenant, action: 'payroll.draft', subject: 'apr-2026', actor: 'test' },
    (tx) =>
      tx.query('payroll', `insert into payroll_runs (tenant, id, status, total_cents) values ($1, 'r', 'draft', 1)`, [
        tenant,
      ]),
  )
  first.child.kill('SIGKILL')
  expect((await first.ended).signal).toBe('SIGKILL')
  await attached.close().catch(() => undefined)

  const third = start('up')
  await third.ready()
  const again = await openFleet({ dataDir: join(root, 'data'), region: 'eu-west' })
  expect(await again.transaction(transactionId)).toMatchObject({ outcome: 'committed' })
  expect((await again.status()).ready).toBe(true)
  await again.close()

  third.child.kill('SIGINT')
  expect((await third.ended).code).toBe(0)
  expect(await processes()).toEqual([])
})

test('a gateway whose port is taken ends with that, and nothing of it goes on', async () => {
  await configure({ durability: 'local' })
  const { gateways } = await start('up').ready()
  const taken = new URL(present(gateways[0], 'a gateway').url).port
  // A script reads what is told, also where all who print are asked for colours.
  const asked = { CI: 'true', FORCE_COLOR: '1' }
  const beside = new Command(
    ['gateway', '--data-dir', join(root, 'data'), '--region', 'eu-west', '--port', taken],
    asked,
  )
  commands.push(beside)
  const { code, stderr } = await beside.ended
  expect(stderr).toContain(`port_taken: 127.0.0.1:${taken} is in use`)
  expect(code).toBe(exitCodes.unavailable)
  const gatewaysOf = async () => (await processes()).filter((what) => what.includes('cli.js gateway'))
  expect(await gatewaysOf()).toHaveLength(gateways.length)
})

test('Ctrl-C while it starts leaves nothing running', async () => {
  await configure({ durability: 'local' })
  const command = start('up')
  await new Promise<void>((resolve) => {
    const poll = setInterval(() => {
      void processes().then((found) => {
        if (found.some((what) => what.includes('postgres'))) {
          clearInterval(poll)
          resolve()
        }
      })
    }, 50)
  })
  command.child.kill('SIGINT')
  await command.ended
  expect(await processes()).toEqual([])
})

test('a changed maxClockOffset is taken up at the next start', async () => {
  const bounds = []
  for (const maxClockOffset of [500, 250]) {
    const changed = { ...(await oneShard(root, { durability: 'local', followers: [] })), maxClockOffset }
    const { reference, config } = await resolveConfig({ config: changed })
    const fleet = await startFleet(reference, config, false, quietRuntime)
    const { supervisor } = fleet
    const document = present(supervisor.topology.document.shards[shard as ShardName], 'the shard')
    const target = supervisor.shardServers.adminTarget(nodeOf(document, document.primary))
    const { rows } = await withConnection(target, (admin) =>
      admin.query('select max_clock_offset_ms from holdfast.shard'),
    )
    bounds.push(...rows)
    await fleet.stop()
  }
  expect(bounds).toEqual([{ max_clock_offset_ms: 500 }, { max_clock_offset_ms: 250 }])
})
